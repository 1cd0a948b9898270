-- What the ledger says was spent of a budget. ARGV: …, budget, spent, generation, expires at. Only the first counts,
-- and only when nothing was settled since `unsettled` was asked: such an entry may be in the sum, or not.

if not is_registered() then return 'unregistered' end

local b = budget(ARGV[4])
if not b.s and b.g == tonumber(ARGV[6]) then
  b.s = tonumber(ARGV[5])
  b.expires = ARGV[7]
  b.changed = true
  save()
end
return 'ok'
