-- lease, receipt, then "receipt:deliveries" of all messages that the worker holds. The other messages that the lease
-- holds here, up to that receipt, were settled before the server returned to older data. They go back to their queues,
-- and this delivery is not counted; those that must not be run again are taken over instead.
-- Returns 0 if the lease is lost, else the receipts of the messages that were taken over.
if not call('HGET', P .. ':fences', ARGV[2]) then return 0 end
begin_writing()
local last, held_there, taken_over = tonumber(ARGV[3]), {}, {}
for i = 4, #ARGV do held_there[ARGV[i] .. TAIL] = true end
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. ARGV[2], {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local id, receipt, deliveries = all[i], proof(all[i + 1])
    if not held_there[all[i + 1]] and math.abs(receipt) <= last then
      local blob = call('HGET', T .. 'messages', id)
      if not blob then
        call('HDEL', key, id)
      elseif receipt > 0 and string.sub(blob, 3, 3) == 'l' then
        call('HDEL', key, id)
        table.insert(back, {receipt, id, deliveries - 1})
      else
        receipt = math.abs(receipt)
        call('HSET', key, id, string.format('-%.0f:%d', receipt, deliveries) .. TAIL)
        table.insert(taken_over, receipt)
      end
    end
  end
  requeue(T, back)
end
return taken_over
