-- Before a budget is loaded: which of its reservations are not settled, for the ledger's sum to leave out.
-- ARGV: …, grace in milliseconds, budget. Returns {ms to wait, generation, id, …}.

if not is_registered() then return 'unregistered' end

-- Until every replica has had time to register, there may be reservations nobody knows of.
local age = (tonumber(micros) - tonumber(epoch)) / 1000
if age < tonumber(ARGV[4]) then return {math.ceil(tonumber(ARGV[4]) - age), 0} end

local found = {0, budget(ARGV[5]).g}
local quoted = '"' .. ARGV[5] .. '"'
for _, other in ipairs(redis.call('ZRANGE', ns .. ':beats', 0, -1)) do
  local all = redis.call('HGETALL', key('open', other))
  for number = 1, #all, 2 do
    if string.find(all[number + 1], quoted, 1, true) then found[#found + 1] = all[number] end
  end
end
return found
