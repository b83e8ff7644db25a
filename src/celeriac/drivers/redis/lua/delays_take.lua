-- now, seconds to hold them, token, ids. Takes messages that are not held, due or not. Returns flat for each: id, queue, due,
-- 1 if it was taken before, data.
begin_writing()
local time, found = instant(ARGV[2]), {}
for i = 5, #ARGV do take_delayed(ARGV[i], time, ARGV[3], ARGV[4], found) end
return found
