-- queue. Drops up to 1,000 messages of each line and 1,000 scheduled ones. Returns how many it has dropped.
local T, dropped = tag(ARGV[2]), 0
local function drop(ids)
  if #ids == 0 then return end
  dropped = dropped + call('HDEL', T .. 'messages', unpack(ids))
  call('HDEL', T .. 'counts', unpack(ids))
end
for priority = 0, 9 do
  for _, lane in ipairs({'p', 'c'}) do drop(call('LPOP', T .. 'ready:' .. lane .. priority, 1000) or {}) end
end
local ids = call('ZRANGE', T .. 'due', 0, 999)
if #ids > 0 then call('ZREM', T .. 'due', unpack(ids)) end
drop(ids)
return dropped
