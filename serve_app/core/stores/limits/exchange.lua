-- One turn with a replica: calls that ended, entries that are in the ledger, and then demands, each decided whole and
-- in order. Returns one answer a demand.

if not is_registered() then return 'unregistered' end

local open = key('open', replica)
local finishes, settles, asks = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local at = 7

for _ = 1, finishes do
  local id, tokens, entry = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  at = at + 3
  local record = find(open, id)
  if record and entry == '' then
    finish(record, tokens)
    settle(record, 0)
    redis.call('HDEL', open, id)
  elseif record and record.state == 'o' then
    finish(record, tokens)
    record.entry = entry
    redis.call('HSET', open, id, text_of(record))
  end
end

for _ = 1, settles do
  local id, cost = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local record = find(open, id)
  if record then
    finish(record)
    settle(record, cost)
    redis.call('HDEL', open, id)
  end
end

-- Answers begin with what was decided: {0} granted, {1, limit, what, ms} limited, {2, budget} spent, {3, budget} not
-- loaded. Then limit, remaining and ms of the tightest requests and tokens, and the health of each key asked for.
local REQUESTS, TOKENS, CONCURRENCY, TOO_LARGE = 1, 2, 3, 4

local function tighter(allowance, limit, left)
  if allowance and allowance[2] / allowance[1] <= left / limit then return allowance end
  return {limit, math.floor(math.max(left, 0)), math.ceil((limit - left) * 60000 / limit)}
end

local function decide(record)
  for number, limit in ipairs(record.limits) do
    local s = scope(limit[1])
    if limit[2] >= 0 then
      local left = level(s.r, s.ra, limit[2])
      if left < 1 then return {1, number, REQUESTS, math.ceil((1 - left) * 60000 / math.max(limit[2], 1))} end
    end
    if limit[3] >= 0 then
      if record.tokens > limit[3] then return {1, number, TOO_LARGE, 0} end
      local left = level(s.t, s.ta, limit[3])
      if left < record.tokens then
        return {1, number, TOKENS, math.ceil((record.tokens - left) * 60000 / math.max(limit[3], 1))}
      end
    end
    if limit[4] >= 0 and s.c >= limit[4] then return {1, number, CONCURRENCY, 1000} end
  end
  if record.cost > 0 then
    for number, of in ipairs(record.budgets) do
      local b = budget(of[1])
      if not b.s then return {3, number, 0, 0} end
      if b.s + b.r + record.cost > of[2] then return {2, number, 0, 0} end
    end
  end
  for _, limit in ipairs(record.limits) do
    local s = scope(limit[1])
    if limit[2] >= 0 then s.r = level(s.r, s.ra, limit[2]) - 1; s.ra = now; s.changed = true end
    if limit[3] >= 0 then s.t = level(s.t, s.ta, limit[3]) - record.tokens; s.ta = now; s.changed = true end
  end
  occupy(record, 1)
  reserve(record, record.cost)
  return {0, 0, 0, 0}
end

local answers, granted = {}, {}
for number = 1, asks do
  local control, entry = ARGV[at], ARGV[at + 1]
  at = at + 2
  local fields = cjson.decode(control)
  local record = {tokens = fields[2], cost = fields[3], limits = fields[4], budgets = fields[5]}
  local answer = decide(record)
  if answer[1] == 0 then
    granted[#granted + 1] = fields[1]
    granted[#granted + 1] = 'o' .. epoch .. ' ' .. control .. '\n' .. entry
  end
  local requests, tokens
  for _, limit in ipairs(record.limits) do
    local s = scope(limit[1])
    if limit[2] > 0 then requests = tighter(requests, limit[2], level(s.r, s.ra, limit[2])) end
    if limit[3] > 0 then tokens = tighter(tokens, limit[3], level(s.t, s.ta, limit[3])) end
  end
  for _, allowance in ipairs({requests or {0, 0, 0}, tokens or {0, 0, 0}}) do
    for _, value in ipairs(allowance) do answer[#answer + 1] = value end
  end
  for _, id in ipairs(fields[6]) do answer[#answer + 1] = health_of(id) end
  answers[number] = answer
end

if #granted > 0 then redis.call('HSET', open, unpack(granted)) end
save()
return answers
