-- now, seconds to hold them, token, limit, queue. Takes messages of a queue that are not held, due or not, the soonest first.
-- Returns flat for each: id, queue, due, 1 if it was taken before, data.
begin_writing()
local time, found = instant(ARGV[2]), {}
take_delayed_from(P .. ':delays:of:' .. ARGV[6], '+inf', time, ARGV[3], ARGV[4], tonumber(ARGV[5]), found)
return found
