-- now, lease, then a request for messages that names its queues (see deliver.lua).
-- Returns 0 if the lease is lost, else the reply to the request.
local may = may_deliver(ARGV[3], ARGV[4])
if may == nil then return 0 end
if not may then return {{}, {}, '0', {}} end
return deliver_from_queues(ARGV[3], instant(ARGV[2]), read_request(4, #ARGV))
