-- What every script here begins with. Arguments 1 to 3 are the namespace, the replica and the epoch it knows.
--
-- Keys (all under the namespace):
--   epoch            when counting began anew (microseconds). A server that lost its memory starts another.
--   replicas         hash: replica -> the epoch it has registered its reservations in
--   beats            sorted set: replica -> when it was last heard of (milliseconds)
--   open:<replica>   hash: reservation -> record
--   scope:<scope>    hash: levels of the request and token buckets (r, t; when: ra, ta), open calls (c), epoch (e)
--   budget:<budget>  hash: settled (s), reserved (r), epoch (e), g: settlements that came before s was loaded
--
--   health:<key>     hash, as `health.lua` tells: the breaker of a provider key, and its models that rest
--
-- A record is: state ('o' open, 'f' finished) epoch ' ' control '\n' the entry for the ledger, both JSON. Control is
-- [id, tokens, cost, [[scope, requests, tokens, concurrency], …], [[budget, amount, expires at], …], [health key, …]],
-- where -1 says that a limit does not bind.

local ns, replica, epoch = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local micros = string.format('%.0f', time[1] * 1000000 + time[2])
local now = time[1] * 1000 + time[2] / 1000

local scopes, budgets = {}, {}

local function key(kind, id)
  return ns .. ':' .. kind .. ':' .. id
end

local function is_registered()
  return redis.call('HGET', ns .. ':replicas', replica) == epoch
end

local function scope(id)
  local s = scopes[id]
  if not s then
    local v = redis.call('HMGET', key('scope', id), 'r', 'ra', 't', 'ta', 'c', 'e')
    s = {
      r = tonumber(v[1]), ra = tonumber(v[2]), t = tonumber(v[3]), ta = tonumber(v[4]),
      -- Calls counted in another epoch are registered anew by those who hold them.
      c = v[6] == epoch and tonumber(v[5]) or 0,
    }
    scopes[id] = s
  end
  return s
end

local function budget(id)
  local b = budgets[id]
  if not b then
    local v = redis.call('HMGET', key('budget', id), 's', 'r', 'g', 'e')
    if v[4] == epoch then
      b = {s = tonumber(v[1]), r = tonumber(v[2]) or 0, g = tonumber(v[3]) or 0}
    else
      b = {r = 0, g = 0}
    end
    budgets[id] = b
  end
  return b
end

-- How much is in a bucket that holds `limit` and refills in a minute. One that was never used is full.
local function level(amount, since, limit)
  if not amount then return limit end
  return math.min(limit, amount + (now - since) * limit / 60000)
end

-- A provider key's health: milliseconds until it is back (-1: half open, 0: well). Where some of its models rest, a list
-- of that and then of each model and its milliseconds.
local function health_of(id)
  local fields = redis.call('HGETALL', key('health', id))
  local ends, trips, resting = 0, 0, {}
  for at = 1, #fields, 2 do
    local field, value = fields[at], tonumber(fields[at + 1]) or 0
    if field == 'until' then ends = value
    elseif field == 'trips' then trips = value
    elseif string.sub(field, 1, 6) == 'model:' and value > now then
      resting[#resting + 1] = string.sub(field, 7)
      resting[#resting + 1] = math.ceil(value - now)
    end
  end
  local left = math.ceil(ends - now)
  left = left > 0 and left or trips > 0 and -1 or 0
  if #resting == 0 then return left end
  table.insert(resting, 1, left)
  return resting
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Two hours: longer than any call lasts. Otherwise what is forgotten says the same as what is kept: full.
local function save()
  for id, s in pairs(scopes) do
    if s.changed then
      local k = key('scope', id)
      local fields = {'c', whole(s.c), 'e', epoch}
      if s.r then fields[#fields + 1] = 'r'; fields[#fields + 1] = s.r; fields[#fields + 1] = 'ra'; fields[#fields + 1] = s.ra end
      if s.t then fields[#fields + 1] = 't'; fields[#fields + 1] = s.t; fields[#fields + 1] = 'ta'; fields[#fields + 1] = s.ta end
      redis.call('HSET', k, unpack(fields))
      redis.call('PEXPIRE', k, 7200000)
    end
  end
  for id, b in pairs(budgets) do
    if b.changed then
      local k = key('budget', id)
      if b.s then
        redis.call('HSET', k, 's', whole(b.s), 'r', whole(b.r), 'g', whole(b.g), 'e', epoch)
      else
        redis.call('DEL', k)
        redis.call('HSET', k, 'r', whole(b.r), 'g', whole(b.g), 'e', epoch)
      end
      redis.call('PEXPIREAT', k, b.expires)
    end
  end
end

local function parse(text)
  local space = string.find(text, ' ', 1, true)
  local line = string.find(text, '\n', space, true)
  local control = string.sub(text, space + 1, line - 1)
  local fields = cjson.decode(control)
  return {
    state = string.sub(text, 1, 1), epoch = string.sub(text, 2, space - 1), control = control,
    entry = string.sub(text, line + 1), tokens = fields[2], cost = fields[3], limits = fields[4], budgets = fields[5],
  }
end

local function find(open, id)
  local text = redis.call('HGET', open, id)
  return text and parse(text)
end

local function text_of(record)
  return record.state .. record.epoch .. ' ' .. record.control .. '\n' .. record.entry
end

-- A call takes its place under the concurrency limits, or leaves it.
local function occupy(record, count)
  for _, limit in ipairs(record.limits) do
    if limit[4] >= 0 then
      local s = scope(limit[1])
      s.c = math.max(s.c + count, 0)
      s.changed = true
    end
  end
end

local function reserve(record, amount)
  for _, of in ipairs(record.budgets) do
    local b = budget(of[1])
    b.r = math.max(b.r + amount, 0)
    b.expires = of[3]
    b.changed = true
  end
end

local function finish(record, tokens)
  if record.state ~= 'o' then return end
  record.state = 'f'
  if record.epoch ~= epoch then return end
  occupy(record, -1)
  if tokens then
    for _, limit in ipairs(record.limits) do
      if limit[3] >= 0 then
        local s = scope(limit[1])
        s.t = level(s.t, s.ta, limit[3]) + record.tokens - tokens
        s.ta = now
        s.changed = true
      end
    end
  end
end

-- What was reserved becomes what was spent.
local function settle(record, cost)
  if record.epoch == epoch then reserve(record, -record.cost) end
  for _, of in ipairs(record.budgets) do
    local b = budget(of[1])
    if b.s then
      b.s = b.s + cost
    else
      b.g = b.g + 1
    end
    b.expires = of[3]
    b.changed = true
  end
end
