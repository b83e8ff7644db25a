-- now, lease, then a request for messages (see hand_out.lua): base receipt, waits, n, then n pairs lane, slots, then queues.
-- Returns 0 where the lease is lost, else {blobs, exceptions, seconds to the next due time or ''}.
local may = may_hand_out(ARGV[3], ARGV[4])
if may == nil then return 0 end
if not may then return {{}, {}, '0'} end
return hand_out(ARGV[3], instant(ARGV[2]), 4, #ARGV)
