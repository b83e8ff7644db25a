-- lease, n, then n lanes, then queues. Takes back that a worker waits; what it was woken for, another is.
local n = tonumber(ARGV[3])
for q = 4 + n, #ARGV do
  local T = tag(ARGV[q])
  for i = 4, 3 + n do
    local lane = ARGV[i]
    call('SREM', T .. 'waiters:' .. lane, ARGV[2])
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and (stands(T, lane) or call('EXISTS', T .. 'due') == 1) then
      ring(T, lane)
    end
  end
end
return 1
