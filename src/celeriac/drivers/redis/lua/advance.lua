-- now, milliseconds that outcomes are kept ('' for ever), then what follows from one node, as `advance` has it.
-- Returns 1, or 0 where it has been done.
return advance(ARGV, 4, ARGV[3], instant(ARGV[2]))
