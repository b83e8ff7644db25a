-- now, milliseconds that outcomes are kept ('' for ever), then for each change: name, its revision as it was read, when
-- it is due next ('' for never), value, p, m, p workflows (id, tree, left, k, k times a join and how many of its members
-- have not ended) and m messages (queue, id, blob, due). Replaces each entry, plants its workflows and publishes its
-- messages, unless the entry has another revision now. Returns 1 or 0 for each.
local time, ttl, done, i = instant(ARGV[2]), ARGV[3], {}, 4
while i <= #ARGV do
  local name, revision, next_at, value = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local p, m = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local known = call('HGET', P .. ':schedules', name)
  local same = known and string.match(known, '^(%d+):') == revision
  if same then
    call('HSET', P .. ':schedules', name, string.format('%.0f:', revision + 1) .. value)
    if next_at == '' then
      call('ZREM', P .. ':schedules:next', name)
    else
      call('ZADD', P .. ':schedules:next', next_at, name)
    end
  end
  i = i + 6
  for _ = 1, p do
    local last = i + 3 + 2 * tonumber(ARGV[i + 3])
    if same then plant(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV, i + 4, last, ttl) end
    i = last + 1
  end
  for _ = 1, m do
    if same then publish(ARGV[i], ARGV, i + 1, i + 3, time) end
    i = i + 4
  end
  table.insert(done, same and 1 or 0)
end
return done
