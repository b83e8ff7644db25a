-- now, ids. Returns for each that is found, flat: state, blob, queue, id.
local time, found, leases = instant(ARGV[2]), {}, call('ZRANGE', P .. ':leases', 0, -1)
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  for i = 3, #ARGV do
    local id = ARGV[i]
    local blob = call('HGET', T .. 'messages', id)
    if blob then
      local state, due = 'ready', call('ZSCORE', T .. 'due', id)
      if due then
        if tonumber(due) > time then state = 'scheduled' end
      elseif call('ZSCORE', T .. 'dead', id) then
        state = 'dead'
      else
        for _, lease in ipairs(leases) do
          if call('HEXISTS', T .. 'held:' .. lease, id) == 1 then state = 'active' end
        end
      end
      for _, part in ipairs({state, blob, queue, id}) do table.insert(found, part) end
    end
  end
end
return found
