-- lease, the slot up to which its sums are final, now; n, then n sums (slot, field, value); then the number of attempts,
-- and these, flat: member, end, kind, task, signature or '', value; then the number of failure signatures, and these,
-- flat: signature, last, value; then the events, flat: name, value, time. Sums of slots that were folded are left out.
local H, lease = P .. ':history:', ARGV[2]
local complete, folded = string.match(call('HGET', H .. 'workers', lease) or '0:0', '^(%d+):(%d+)')
complete = string.format('%.0f', math.max(tonumber(complete), tonumber(ARGV[3])))
call('HSET', H .. 'workers', lease, complete .. ':' .. folded .. ':' .. ARGV[4])
local i = 6
for _ = 1, tonumber(ARGV[5]) do
  if tonumber(ARGV[i]) > tonumber(folded) then call('HSET', H .. 'unfolded', ARGV[i + 1], ARGV[i + 2]) end
  i = i + 3
end
i = i + 1
for _ = 1, tonumber(ARGV[i - 1]) do
  local member, at, signature = ARGV[i], ARGV[i + 1], ARGV[i + 4]
  call('HSET', H .. 'attempts', member, ARGV[i + 5])
  call('ZADD', H .. 'ids', 0, member)
  call('ZADD', H .. 'kind:' .. ARGV[i + 2], at, member)
  call('ZADD', H .. 'task:' .. ARGV[i + 3], at, member)
  if signature ~= '' then call('ZADD', H .. 'signature:' .. signature, at, member) end
  i = i + 6
end
i = i + 1
for _ = 1, tonumber(ARGV[i - 1]) do
  call('HSET', H .. 'signatures', ARGV[i], ARGV[i + 2])
  call('ZADD', H .. 'last', ARGV[i + 1], ARGV[i])
  i = i + 3
end
for j = i, #ARGV, 3 do
  call('HSET', H .. 'events', ARGV[j], ARGV[j + 1])
  call('ZADD', H .. 'times', ARGV[j + 2], ARGV[j])
end
