-- 1 to delete messages, 0 to hold them no longer; then for each: id, token. Returns 1 for each; 0 if it is not there, or
-- somebody else has taken it since.
local D, done = P .. ':delays', {}
begin_writing()
for i = 3, #ARGV, 2 do
  local known = call('HGET', D .. ':about', ARGV[i])
  local same = known and string.match(known, '^%d+') == ARGV[i + 1]
  if same then
    if ARGV[2] == '1' then forget_delayed(ARGV[i], known) else call('ZREM', D .. ':held', ARGV[i]) end
  end
  table.insert(done, same and 1 or 0)
end
return done
