-- for each entry: name, its revision as it was read ('' for any). Returns 1 for each; 0 if there is no such entry.
local done = {}
for i = 2, #ARGV, 2 do
  local name, revision = ARGV[i], ARGV[i + 1]
  local known = call('HGET', P .. ':schedules', name)
  local same = known and (revision == '' or string.match(known, '^(%d+):') == revision)
  if same then
    call('ZREM', P .. ':schedules:names', name)
    call('ZREM', P .. ':schedules:next', name)
    call('HDEL', P .. ':schedules', name)
  end
  table.insert(done, same and 1 or 0)
end
return done
