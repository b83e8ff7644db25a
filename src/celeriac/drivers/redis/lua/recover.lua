-- lease, fence, then pairs of receipts (from, to). Gives back, uncounted, what was handed out in answers that were
-- lost, and refuses requests of before the fence that are still on their way. Returns 0 where the lease is lost.
if not call('HGET', P .. ':fences', ARGV[2]) then return 0 end
begin_writing()
call('HSET', P .. ':fences', ARGV[2], ARGV[3])
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. ARGV[2], {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local receipt, deliveries = proof(all[i + 1])
    for d = 4, #ARGV, 2 do
      if receipt > tonumber(ARGV[d]) and receipt <= tonumber(ARGV[d + 1]) then
        call('HDEL', key, all[i])
        table.insert(back, {receipt, all[i], deliveries - 1})
      end
    end
  end
  requeue(T, back)
end
return 1
