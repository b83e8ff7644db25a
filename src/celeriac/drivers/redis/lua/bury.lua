-- now, lease, then pairs of receipt and reason. Makes dead letters of the messages held by these receipts, which are
-- unreadable. Returns how many there were.
local time, reasons, count = instant(ARGV[2]), {}, 0
for i = 4, #ARGV, 2 do reasons[tonumber(ARGV[i])] = ARGV[i + 1] end
begin_writing()
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key = T .. 'held:' .. ARGV[3]
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local id, receipt = all[i], proof(all[i + 1])
    if reasons[receipt] then
      count = count + 1
      call('HDEL', key, id)
      call('HDEL', T .. 'counts', id)
      call('ZADD', T .. 'dead', time, id)
      call('HSET', T .. 'reasons', id, reasons[receipt])
    end
  end
end
return count
