-- milliseconds that outcomes are kept ('' for ever), 1 if a workflow of this id stays as it is, workflow, tree, left, then
-- joins and how many members of each have not ended. Stores a workflow.
if ARGV[3] == '0' or call('EXISTS', P .. ':workflow:' .. ARGV[4]) == 0 then
  plant(ARGV[4], ARGV[5], ARGV[6], ARGV, 7, #ARGV, ARGV[2])
end
return 1
