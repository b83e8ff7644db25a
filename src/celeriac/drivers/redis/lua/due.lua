-- now, limit, seconds. Claims pending nodes for so long. Returns each with the time until which it was claimed before,
-- 0 if it was not.
begin_writing()
local time = instant(ARGV[2])
local found = call('ZRANGE', P .. ':dues', '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
for i = 1, #found, 2 do call('ZADD', P .. ':dues', time + ARGV[4], found[i]) end
return found
