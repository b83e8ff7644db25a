-- until, then ids. Revokes messages; scheduled ones become ready, so that a worker settles them soon. Returns 1.
begin_writing()
local until_ = tonumber(ARGV[2])
for i = 3, #ARGV do call('ZADD', P .. ':revoked', until_, ARGV[i]) end
local last = call('ZRANGE', P .. ':revoked', -1, -1, 'WITHSCORES')[2]
call('EXPIREAT', P .. ':revoked', string.format('%.0f', math.ceil(tonumber(last)) + 1))
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T, at = tag(queue), batch()
  for i = 3, #ARGV do
    if call('ZREM', T .. 'due', ARGV[i]) == 1 then
      local blob = call('HGET', T .. 'messages', ARGV[i])
      if blob then add(at, ARGV[i], blob, '', 0) end
    end
  end
  put(T, at, 'LPUSH')
end
return 1
