-- milliseconds that outcomes are kept ('' for ever), then id, value, channel of each outcome. Returns for each
-- 1, or 0 if there was a final one.
begin_writing()
local outcomes = {}
for i = 3, #ARGV do outcomes[i - 2] = ARGV[i] end
return keep(outcomes, ARGV[2])
