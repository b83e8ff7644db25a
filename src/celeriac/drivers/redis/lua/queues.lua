-- now. Returns for each queue, flat: name, ready, scheduled, active, dead, 1 if it is paused.
local time, rows, leases = instant(ARGV[2]), {}, call('ZRANGE', P .. ':leases', 0, -1)
for _, queue in ipairs(call('SUNION', P .. ':queues', P .. ':paused')) do
  local T = tag(queue)
  pcall(make_due_ready, T, time)  -- a user who may only read moves nothing
  local waiting, active = 0, 0
  for _, lane in ipairs({'p', 'c'}) do
    for priority = 0, 9 do waiting = waiting + call('LLEN', T .. 'ready:' .. lane .. priority) end
  end
  for _, lease in ipairs(leases) do active = active + call('HLEN', T .. 'held:' .. lease) end
  local due = call('ZCARD', T .. 'due')
  local late = call('ZCOUNT', T .. 'due', '-inf', time)
  for _, part in ipairs({queue, waiting + late, due - late, active, call('ZCARD', T .. 'dead'),
                         call('SISMEMBER', P .. ':paused', queue)}) do table.insert(rows, part) end
end
return rows
