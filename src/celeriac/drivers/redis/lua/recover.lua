-- lease, fence, then ranges of receipts (above, up to). Returns the messages delivered in lost replies to their queues;
-- this delivery is not counted. Later requests with a base receipt below the fence are refused: they were sent before.
-- Returns 1, or 0 if the lease is lost.
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
