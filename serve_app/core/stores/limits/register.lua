-- A replica makes itself known with what it holds. ARGV: …, how many, then for each: state, control, entry.
-- Returns the epoch, and whether its reservations were taken over because it was thought dead.

local known = epoch
epoch = redis.call('GET', ns .. ':epoch')
if not epoch then
  epoch = micros
  redis.call('SET', ns .. ':epoch', epoch)
end
redis.call('ZADD', ns .. ':beats', now, replica)
-- Its own answer may have been lost on the way.
if is_registered() then return {epoch, 0} end
redis.call('HSET', ns .. ':replicas', replica, epoch)
if known == epoch then return {epoch, 1} end

local open = key('open', replica)
redis.call('DEL', open)
for number = 0, tonumber(ARGV[4]) - 1 do
  local state, control, entry = ARGV[5 + number * 3], ARGV[6 + number * 3], ARGV[7 + number * 3]
  local record = parse(state .. epoch .. ' ' .. control .. '\n' .. entry)
  if state == 'o' then occupy(record, 1) end
  reserve(record, record.cost)
  redis.call('HSET', open, cjson.decode(control)[1], text_of(record))
end
save()
return {epoch, 0}
