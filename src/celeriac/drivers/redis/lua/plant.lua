-- milliseconds that outcomes are kept ('' for ever), workflow, tree, left, then joins and how many members of
-- each have not ended. Stores a workflow.
local key = P .. ':workflow:' .. ARGV[3]
call('DEL', key)
call('HSET', key, 'tree', ARGV[4], 'left', ARGV[5])
for i = 6, #ARGV, 2 do call('HSET', key, ARGV[i], ARGV[i + 1]) end
if ARGV[2] ~= '' then
  call('PEXPIRE', key, tonumber(ARGV[5]) > 0 and math.max(UNFINISHED, ARGV[2]) or ARGV[2])
end
return 1
