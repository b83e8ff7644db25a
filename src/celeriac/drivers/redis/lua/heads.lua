-- queue, now. Returns the blobs of the messages that come next in each line.
local T, blobs = tag(ARGV[2]), {}
pcall(make_due_ready, T, instant(ARGV[3]))  -- a user who may only read moves nothing
for priority = 9, 0, -1 do
  for _, lane in ipairs({'p', 'c'}) do
    local id = call('LINDEX', T .. 'ready:' .. lane .. priority, 0)
    if id then table.insert(blobs, call('HGET', T .. 'messages', id)) end
  end
end
return blobs
