-- name, then queues. Registers a queue list for 5 s, marks each of its queues with the list's name, and enters those
-- that have messages in the indexes P:ready and P:soonest: an older version of Celeriac may have published without
-- doing so.
begin_writing()
local list = P .. ':list:' .. ARGV[2]
call('DEL', list)
for i = 3, #ARGV do
  local T = tag(ARGV[i])
  call('ZADD', list, i - 3, ARGV[i])
  for _, lane in ipairs({'p', 'c'}) do
    call('SADD', T .. 'waiters:' .. lane, '+' .. ARGV[2])
    if has_ready(T, lane) then call('SADD', P .. ':ready:' .. lane, ARGV[i]) end
  end
  local due = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
  if due then call('ZADD', P .. ':soonest', 'LT', due, ARGV[i]) end
end
call('EXPIRE', list, 5)
return 1
