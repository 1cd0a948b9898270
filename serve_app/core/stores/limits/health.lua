-- The circuit breaker of a provider key, and the budget of retries. ARGV: namespace, '', '', what, key, numbers.
--   health:<key>   hash: failures in the window (n) that began at (from), closed until (until), times it opened in a
--                  row (trips), whose probe is out (ticket) and when it counts as lost (probe); model:<name> says until
--                  when the key is not used for that model. An hour longer than any of it, the hash is kept.

local what, id = ARGV[4], ARGV[5]
local k = key('health', id)

if what == 'fail' then
  local threshold, window, cooldown, longest = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
  local v = redis.call('HMGET', k, 'n', 'from', 'until', 'trips')
  local from, trips = tonumber(v[2]) or 0, tonumber(v[4]) or 0
  local ends = tonumber(v[3]) or 0
  -- Calls that began before it opened say nothing new.
  if ends > now then return math.ceil(ends - now) end
  local n = (from + window > now and tonumber(v[1]) or 0) + 1
  if from + window <= now then from = now end
  local left = 0
  if trips > 0 or n >= threshold then
    left = math.min(cooldown * 2 ^ trips, longest)
    redis.call('HSET', k, 'n', 0, 'from', 0, 'until', now + left, 'trips', trips + 1)
    redis.call('HDEL', k, 'probe', 'ticket')
  else
    redis.call('HSET', k, 'n', n, 'from', from)
  end
  redis.call('PEXPIRE', k, whole(math.max(window, left) + 3600000))
  return math.ceil(left)
elseif what == 'cool' then
  local field = 'until'
  if ARGV[7] then
    field = 'model:' .. ARGV[7]
    -- Names come and go with catalogues: what has rested is not kept.
    local fields = redis.call('HGETALL', k)
    for at = 1, #fields, 2 do
      if string.sub(fields[at], 1, 6) == 'model:' and (tonumber(fields[at + 1]) or 0) <= now then
        redis.call('HDEL', k, fields[at])
      end
    end
  end
  local ends = math.max(tonumber(redis.call('HGET', k, field)) or 0, now + tonumber(ARGV[6]))
  redis.call('HSET', k, field, ends)
  redis.call('PEXPIRE', k, whole(ends - now + 3600000))
  return math.ceil(ends - now)
elseif what == 'probe' then
  local v = redis.call('HMGET', k, 'until', 'trips', 'probe')
  if (tonumber(v[1]) or 0) > now then return 0 end
  if (tonumber(v[2]) or 0) == 0 then return 1 end
  if (tonumber(v[3]) or 0) > now then return 0 end
  redis.call('HSET', k, 'probe', now + tonumber(ARGV[6]), 'ticket', ARGV[7])
  return 1
elseif what == 'release' then
  -- Only one's own: another may be out since this one counted as lost.
  if redis.call('HGET', k, 'ticket') == ARGV[6] then redis.call('HDEL', k, 'probe', 'ticket') end
  return 0
elseif what == 'succeed' then
  -- A call that began before it opened, or before the provider asked for patience, says nothing about now.
  if (tonumber(redis.call('HGET', k, 'until')) or 0) <= now then
    redis.call('HDEL', k, 'n', 'from', 'until', 'trips', 'probe', 'ticket')
  end
  return 0
elseif what == 'cooldowns' then
  local found = {}
  for number = 5, #ARGV do found[#found + 1] = health_of(ARGV[number]) end
  return found
elseif what == 'retry' then
  -- A bucket that fills with a share of the requests, and by itself with a minimum a second.
  local deposit, per_second, most = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  local retries = key('retries', id)
  local v = redis.call('HMGET', retries, 'left', 'at')
  local left = tonumber(v[1]) or most
  left = math.min(most, left + deposit + (now - (tonumber(v[2]) or now)) * per_second / 1000)
  local allowed = left >= 1 and 1 or 0
  redis.call('HSET', retries, 'left', left - allowed, 'at', now)
  redis.call('PEXPIRE', retries, 600000)
  return allowed
end
