-- queue, now, offset, limit. Returns the blobs of ready messages, in the order in which they will be received.
local T, offset, left, blobs = tag(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), {}
pcall(make_due_ready, T, instant(ARGV[3]))  -- a user who may only read moves nothing
for priority = 9, 0, -1 do
  for _, lane in ipairs({'p', 'c'}) do
    local line = T .. 'ready:' .. lane .. priority
    local length = call('LLEN', line)
    if length <= offset then
      offset = offset - length
    elseif left > 0 then
      for _, id in ipairs(call('LRANGE', line, offset, offset + left - 1)) do
        table.insert(blobs, call('HGET', T .. 'messages', id))
        left = left - 1
      end
      offset = 0
    end
  end
end
return blobs
