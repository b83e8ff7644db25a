-- queue, now, milliseconds that outcomes are kept ('' for ever), n, then n messages that may still be ready or
-- scheduled, flat: id, the line in which it was found or '', value of the outcome or '', its channel, and of a node of a
-- workflow: workflow, node, its join or '', 1 if it leaves a pending node (else four times ''); then the messages that
-- follow, flat: number of the message that they follow, queue, id, blob, due.
-- Deletes those that no worker has taken, and stores their outcomes. Returns 1 for each, or 0 if it was gone.
begin_writing()
local T, time, ttl, n = tag(ARGV[2]), instant(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local done, new, gone, outcomes, ends, keeping, ending = {}, {}, {}, {}, {}, {}, {}
for i = 1, n do
  local a = 8 * i - 2
  local id, line = ARGV[a], ARGV[a + 1]
  if line == '' then line = string.sub(call('HGET', T .. 'messages', id) or '', 1, 2) end
  if call('ZREM', T .. 'due', id) == 1 or call('LREM', T .. 'ready:' .. line, 1, id) == 1 then
    done[i] = 1
    table.insert(gone, id)
    if ARGV[a + 4] ~= '' then
      table.insert(ending, i)
      table.insert(ends, id)
      for j = a + 2, a + 7 do table.insert(ends, ARGV[j]) end
    elseif ARGV[a + 2] ~= '' then
      table.insert(keeping, i)
      for _, part in ipairs({id, ARGV[a + 2], ARGV[a + 3]}) do table.insert(outcomes, part) end
    end
  else
    done[i] = 0
  end
end
if #gone > 0 then
  many('HDEL', T .. 'messages', gone)
  many('HDEL', T .. 'counts', gone)
end
if #outcomes > 0 then
  for j, stored in ipairs(keep(outcomes, ttl)) do new[keeping[j]] = stored == 1 end
end
if #ends > 0 then
  for j, stored in ipairs(conclude(ends, ttl)) do new[ending[j]] = stored == 1 end
end
for i = 6 + 8 * n, #ARGV, 5 do
  if new[tonumber(ARGV[i])] then publish(ARGV[i + 1], ARGV, i + 2, i + 4, time) end
end
return done
