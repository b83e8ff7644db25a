-- queue, id, blob. The shortest way to publish one message that is ready. Returns 1, or 0 if its id is there already.
local T = P .. ':{' .. ARGV[2] .. '}:'
if call('HSETNX', T .. 'messages', ARGV[3], ARGV[4]) == 1 then
  local line = string.sub(ARGV[4], 1, 2)
  local lane = string.sub(line, 1, 1)
  if call('RPUSH', T .. 'ready:' .. line, ARGV[3]) == 1 then
    call('SADD', P .. ':queues', ARGV[2])
    call('SADD', P .. ':ready:' .. lane, ARGV[2])
  end
  while true do
    local waiter = call('SPOP', T .. 'waiters:' .. lane)
    if not waiter then return 1 end
    if string.byte(waiter) == 43 then
      if ring_list(T, lane, waiter) then return 1 end
    elseif call('PUBLISH', P .. ':bell:' .. waiter, '') > 0 then
      return 1
    end
  end
end
return 0
