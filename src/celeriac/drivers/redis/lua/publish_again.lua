-- As `publish`, of messages that may have been stored already; what has been stored and has ended is not again.
local T, time, fresh = tag(ARGV[2]), instant(ARGV[3]), {}
for i = 4, #ARGV, 3 do
  if not ended(T, ARGV[i], time) then
    for k = i, i + 2 do table.insert(fresh, ARGV[k]) end
  end
end
publish(ARGV[2], fresh, 1, #fresh, time)
return 1
