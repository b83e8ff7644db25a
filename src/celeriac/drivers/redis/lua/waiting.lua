-- queue, limit. Returns up to `limit` ready and scheduled messages of a queue, flat: id, its line or '' if it is
-- scheduled, blob.
local T, left, found = tag(ARGV[2]), tonumber(ARGV[3]), {}
local function collect(ids, line)
  if #ids == 0 then return end
  left = left - #ids
  for i, blob in ipairs(call('HMGET', T .. 'messages', unpack(ids))) do
    for _, part in ipairs({ids[i], line, blob or ''}) do table.insert(found, part) end
  end
end
for priority = 0, 9 do
  for _, lane in ipairs({'p', 'c'}) do
    if left > 0 then collect(call('LRANGE', T .. 'ready:' .. lane .. priority, 0, left - 1), lane .. priority) end
  end
end
if left > 0 then collect(call('ZRANGE', T .. 'due', 0, left - 1), '') end
return found
