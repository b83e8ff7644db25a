-- now, how many, seconds. Takes on so many of the nodes that are due; nobody else is given them for so long.
local time = instant(ARGV[2])
local found = call('ZRANGE', P .. ':dues', '-inf', time, 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, due in ipairs(found) do call('ZADD', P .. ':dues', time + ARGV[4], due) end
return found
