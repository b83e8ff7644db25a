-- queue, limit. Deletes up to `limit` ready and scheduled messages of a queue. Returns their ids and blobs: id, blob, …
local T, left, deleted = tag(ARGV[2]), tonumber(ARGV[3]), {}
local function delete(ids)
  if #ids == 0 then return end
  left = left - #ids
  local blobs = call('HMGET', T .. 'messages', unpack(ids))
  for i, id in ipairs(ids) do
    if blobs[i] then
      table.insert(deleted, id)
      table.insert(deleted, blobs[i])
    end
  end
  call('HDEL', T .. 'messages', unpack(ids))
  call('HDEL', T .. 'counts', unpack(ids))
end
for priority = 0, 9 do
  for _, lane in ipairs({'p', 'c'}) do
    if left > 0 then delete(call('LPOP', T .. 'ready:' .. lane .. priority, left) or {}) end
  end
end
if left > 0 then
  local ids = call('ZRANGE', T .. 'due', 0, left - 1)
  if #ids > 0 then call('ZREM', T .. 'due', unpack(ids)) end
  delete(ids)
end
return deleted
