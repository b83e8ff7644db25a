-- milliseconds that outcomes are kept ('' for ever), then id, value, channel of each. Returns 1 or 0 for each.
begin_writing()
local outcomes = {}
for i = 3, #ARGV do outcomes[i - 2] = ARGV[i] end
return keep(outcomes, ARGV[2])
