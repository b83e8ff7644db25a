-- milliseconds that outcomes are kept ('' for ever), then the ends of nodes, flat, as the function `conclude` takes
-- them. Returns 1 or 0 for each.
begin_writing()
local ends = {}
for i = 3, #ARGV do ends[i - 2] = ARGV[i] end
return conclude(ends, ARGV[2])
