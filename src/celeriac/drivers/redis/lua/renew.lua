-- now, lease, seconds. Renews a lease. Returns when it expires, or 0 if it is lost.
if not call('ZSCORE', P .. ':leases', ARGV[3]) then return 0 end
begin_writing()
local expires = string.format('%.17g', instant(ARGV[2]) + ARGV[4])
call('ZADD', P .. ':leases', expires, ARGV[3])
return expires
