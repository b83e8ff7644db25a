-- now, limit, seconds. Claims pending nodes for so long. Returns each with the time until which it was claimed before,
-- 0 if it was not. When there are none, it looks at a few of the workflows that have not ended, at random, and takes
-- those that have expired out of their list.
begin_writing()
local time = instant(ARGV[2])
local found = call('ZRANGE', P .. ':dues', '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
for i = 1, #found, 2 do call('ZADD', P .. ':dues', time + ARGV[4], found[i]) end
if #found == 0 then
  for _, id in ipairs(call('ZRANDMEMBER', P .. ':unfinished', 5)) do
    if call('EXISTS', P .. ':workflow:' .. id) == 0 then call('ZREM', P .. ':unfinished', id) end
  end
end
return found
