-- milliseconds that outcomes are kept ('' for ever), workflow, tree, left, then joins and how many members of
-- each have not ended. Stores a workflow.
plant(ARGV[3], ARGV[4], ARGV[5], ARGV, 6, #ARGV, ARGV[2])
return 1
