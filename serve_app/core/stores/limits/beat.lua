-- A replica is alive, and takes over what the dead hold. ARGV: …, milliseconds without a beat that mean death, page.
-- Returns ids and entries for the ledger.

if not is_registered() then return 'unregistered' end

redis.call('ZADD', ns .. ':beats', now, replica)
local open = key('open', replica)
local taken = {}
local dead = redis.call('ZRANGEBYSCORE', ns .. ':beats', '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 10)
for _, other in ipairs(dead) do
  local theirs = key('open', other)
  local page = redis.call('HSCAN', theirs, 0, 'COUNT', ARGV[5])[2]
  for number = 1, #page, 2 do
    local id, record = page[number], parse(page[number + 1])
    finish(record)
    if record.entry == '' then
      settle(record, 0)
    else
      redis.call('HSET', open, id, text_of(record))
      taken[#taken + 1] = id
      taken[#taken + 1] = record.entry
    end
    redis.call('HDEL', theirs, id)
  end
  redis.call('HDEL', ns .. ':replicas', other)
  if redis.call('HLEN', theirs) == 0 then redis.call('ZREM', ns .. ':beats', other) end
end
save()
return taken
