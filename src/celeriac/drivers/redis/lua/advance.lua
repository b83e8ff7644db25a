-- now, milliseconds that outcomes are kept ('' for ever), then an advance, as the function `advance` takes it.
-- Returns 1, or 0 if it has been done before.
return advance(ARGV, 4, ARGV[3], instant(ARGV[2]))
