-- now. Returns flat for each queue with messages: its name, how many are due, how many there are.
local time, found = string.format('%.6f', instant(ARGV[2])), {}
for _, queue in ipairs(call('SMEMBERS', P .. ':delays:queues')) do
  local key = P .. ':delays:of:' .. queue
  table.insert(found, queue)
  table.insert(found, call('ZCOUNT', key, '-inf', time))
  table.insert(found, call('ZCARD', key))
end
return found
