-- ids. Returns the blobs of those that are dead letters.
local blobs = {}
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  for i = 2, #ARGV do
    if call('ZSCORE', T .. 'dead', ARGV[i]) then table.insert(blobs, call('HGET', T .. 'messages', ARGV[i])) end
  end
end
return blobs
