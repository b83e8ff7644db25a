-- lease, receipt, then "receipt:deliveries" of all that the worker has in hand. What the lease holds besides, up to
-- that receipt, was settled before the server went back to older data: it goes back, uncounted, or is taken over
-- where it must not be run again. Returns 0 where the lease is lost, else the receipts of what was taken over.
if not call('HGET', P .. ':fences', ARGV[2]) then return 0 end
begin_writing()
local last, in_hand, taken = tonumber(ARGV[3]), {}, {}
for i = 4, #ARGV do in_hand[ARGV[i] .. TAIL] = true end
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. ARGV[2], {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local id, receipt, deliveries = all[i], proof(all[i + 1])
    if not in_hand[all[i + 1]] and math.abs(receipt) <= last then
      local blob = call('HGET', T .. 'messages', id)
      if not blob then
        call('HDEL', key, id)
      elseif receipt > 0 and string.sub(blob, 3, 3) == 'l' then
        call('HDEL', key, id)
        table.insert(back, {receipt, id, deliveries - 1})
      else
        receipt = math.abs(receipt)
        call('HSET', key, id, string.format('-%.0f:%d', receipt, deliveries) .. TAIL)
        table.insert(taken, receipt)
      end
    end
  end
  requeue(T, back)
end
return taken
