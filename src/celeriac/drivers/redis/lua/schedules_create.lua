-- for each entry: name, revision, when it is due next ('' for never), value. Returns 1 for each; 0 if its name is taken.
local done = {}
for i = 2, #ARGV, 4 do
  local name, next_at = ARGV[i], ARGV[i + 2]
  local new = call('HSETNX', P .. ':schedules', name, ARGV[i + 1] .. ':' .. ARGV[i + 3])
  if new == 1 then
    call('ZADD', P .. ':schedules:names', 0, name)
    if next_at ~= '' then call('ZADD', P .. ':schedules:next', next_at, name) end
  end
  table.insert(done, new)
end
return done
