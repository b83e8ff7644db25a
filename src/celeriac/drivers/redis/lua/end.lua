-- lease. Ends it: the messages that it holds go back to their queues, and this delivery is not counted. Those that it
-- had taken over are left for the next sweep.
local lease, kept = ARGV[2], false
begin_writing()
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. lease, {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local receipt, deliveries = proof(all[i + 1])
    if receipt > 0 then
      call('HDEL', key, all[i])
      table.insert(back, {receipt, all[i], deliveries - 1})
    else
      kept = true
    end
  end
  for _, lane in ipairs({'p', 'c'}) do call('SREM', T .. 'waiters:' .. lane, lease) end
  requeue(T, back)
end
if kept then
  if call('ZSCORE', P .. ':leases', lease) then call('ZADD', P .. ':leases', 0, lease) end
else
  call('ZREM', P .. ':leases', lease)
  call('HDEL', P .. ':workers', lease)
  call('HDEL', P .. ':fences', lease)
end
return 1
