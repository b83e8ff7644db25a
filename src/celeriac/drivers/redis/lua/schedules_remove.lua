-- names. Returns 1 for each; 0 if there is no such entry.
local done = {}
for i = 2, #ARGV do
  call('ZREM', P .. ':schedules:names', ARGV[i])
  call('ZREM', P .. ':schedules:next', ARGV[i])
  table.insert(done, call('HDEL', P .. ':schedules', ARGV[i]))
end
return done
