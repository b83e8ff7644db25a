-- queue. Ends a pause, and wakes a waiting worker for each lane.
call('SREM', P .. ':paused', ARGV[2])
for _, lane in ipairs({'p', 'c'}) do ring(tag(ARGV[2]), lane) end
return 1
