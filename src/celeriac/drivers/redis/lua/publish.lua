-- queue, now, then for each message: id, blob, due ('' for at once). Returns 1.
publish(ARGV[2], ARGV, 4, #ARGV, instant(ARGV[3]))
return 1
