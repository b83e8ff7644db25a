-- n, then n changes of rows, flat: step, slot, '' or lease, field, 1 if there must be such a row, its value, 1 if there is
-- one afterwards, its value; then pairs of lease and the slot up to which its sums are folded. Returns 1, or 0 if a row
-- is not as the change says: then nothing is changed.
local H, n = P .. ':history:', tonumber(ARGV[2])
local function key(i)
  if ARGV[i + 2] ~= '' then return H .. 'unfolded' end
  return H .. 'sums:' .. ARGV[i] .. ':' .. ARGV[i + 1]
end
for k = 0, n - 1 do
  local i = 3 + 8 * k
  if call('HGET', key(i), ARGV[i + 3]) ~= (ARGV[i + 4] == '1' and ARGV[i + 5] or false) then return 0 end
end
for k = 0, n - 1 do
  local i = 3 + 8 * k
  local slots = H .. 'slots:' .. ARGV[i]
  if ARGV[i + 6] == '1' then
    call('HSET', key(i), ARGV[i + 3], ARGV[i + 7])
    if ARGV[i + 2] == '' then call('ZADD', slots, ARGV[i + 1], ARGV[i + 1]) end
  else
    call('HDEL', key(i), ARGV[i + 3])
    if ARGV[i + 2] == '' and call('EXISTS', key(i)) == 0 then call('ZREM', slots, ARGV[i + 1]) end
  end
end
for i = 3 + 8 * n, #ARGV, 2 do
  local complete, folded, seen = string.match(call('HGET', H .. 'workers', ARGV[i]) or '0:0:0', '^(%d+):(%d+):(.*)$')
  folded = string.format('%.0f', math.max(tonumber(folded), tonumber(ARGV[i + 1])))
  call('HSET', H .. 'workers', ARGV[i], complete .. ':' .. folded .. ':' .. seen)
end
return 1
