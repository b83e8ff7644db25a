-- queue, id, blob. The shortest way for one message that is due.
local T = P .. ':{' .. ARGV[2] .. '}:'
if call('HSETNX', T .. 'messages', ARGV[3], ARGV[4]) == 1 then
  local line = string.sub(ARGV[4], 1, 2)
  if call('RPUSH', T .. 'ready:' .. line, ARGV[3]) == 1 then call('SADD', P .. ':queues', ARGV[2]) end
  while true do
    local lease = call('SPOP', T .. 'waiters:' .. string.sub(line, 1, 1))
    if not lease or call('PUBLISH', P .. ':bell:' .. lease, '') > 0 then return 1 end
  end
end
return 0
