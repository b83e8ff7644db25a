-- now, how many, seconds. Takes on so many of the nodes that are due; nobody else is given them for so long. Returns each
-- with the time until which somebody had it before, 0 if nobody.
begin_writing()
local time = instant(ARGV[2])
local found = call('ZRANGE', P .. ':dues', '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
for i = 1, #found, 2 do call('ZADD', P .. ':dues', time + ARGV[4], found[i]) end
return found
