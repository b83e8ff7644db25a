-- Takes the arguments of `publish`, for messages that may have been published before: those that have ended are not
-- stored again. Returns 1.
local T, time, new = tag(ARGV[2]), instant(ARGV[3]), {}
for i = 4, #ARGV, 3 do
  if not ended(T, ARGV[i], time) then
    for k = i, i + 2 do table.insert(new, ARGV[k]) end
  end
end
publish(ARGV[2], new, 1, #new, time)
return 1
