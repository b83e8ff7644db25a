-- lease, n, then n lanes, then '' and queues, or the name of a queue list. Ends a worker's waiting; another worker is
-- woken for the messages that this one was woken for.
local n = tonumber(ARGV[3])
local list = ARGV[4 + n]
if list ~= '' then
  local entries = {}
  for i = 4, 3 + n do call('SREM', P .. ':waiters:' .. list .. ':' .. ARGV[i], ARGV[2]) end
  collect_rung(ARGV[2], {}, entries)
  pass_on(entries)
  return 1
end
for q = 5 + n, #ARGV do
  local T = tag(ARGV[q])
  for i = 4, 3 + n do
    local lane = ARGV[i]
    call('SREM', T .. 'waiters:' .. lane, ARGV[2])
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and (has_ready(T, lane) or call('EXISTS', T .. 'due') == 1) then
      ring(T, lane)
    end
  end
end
return 1
