-- now, lease, seconds, info. Opens a lease; returns when it expires.
local expires = string.format('%.17g', instant(ARGV[2]) + ARGV[4])
begin_writing()
call('ZADD', P .. ':leases', expires, ARGV[3])
call('HSET', P .. ':workers', ARGV[3], ARGV[5])
call('HSET', P .. ':fences', ARGV[3], 0)
return expires
