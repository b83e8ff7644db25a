-- ids. Returns for each that is a dead letter, flat: blob, queue, id.
local letters = {}
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  for i = 2, #ARGV do
    if call('ZSCORE', T .. 'dead', ARGV[i]) then
      local blob = call('HGET', T .. 'messages', ARGV[i])
      for _, part in ipairs({blob, queue, ARGV[i]}) do table.insert(letters, part) end
    end
  end
end
return letters
