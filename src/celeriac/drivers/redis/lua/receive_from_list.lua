-- now, lease, then a request for messages that names a queue list (see deliver.lua).
-- Returns 0 if the lease is lost, -1 if the queue list is not registered, else the reply to the request.
local may = may_deliver(ARGV[3], ARGV[4])
if may == nil then return 0 end
if not may then return {{}, {}, '0', {}} end
local request = read_request(4, #ARGV)
if call('EXISTS', P .. ':list:' .. request.list) == 0 then return -1 end
return deliver_from_list(ARGV[3], instant(ARGV[2]), request)
