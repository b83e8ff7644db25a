-- now, lease, milliseconds that outcomes are kept ('' for ever), queue, n, then n ids, their n "receipt:deliveries",
-- their n outcomes ("channel,value" or ''), and, if some are ends of workflows' nodes, their n places
-- ("workflow:node:join" or ''). The fastest way to settle messages of one queue that are all acknowledged, without
-- follow-ups. Returns 1, or 0 if a token is stale: then nothing is done.
local lease, T, n = ARGV[3], tag(ARGV[5]), tonumber(ARGV[6])
local held = call('HMGET', T .. 'held:' .. lease, unpack(ARGV, 7, 6 + n))
for i = 1, n do
  if held[i] ~= ARGV[6 + n + i] .. TAIL then return 0 end
end
call('HDEL', T .. 'held:' .. lease, unpack(ARGV, 7, 6 + n))
call('HDEL', T .. 'messages', unpack(ARGV, 7, 6 + n))
if call('EXISTS', T .. 'counts') == 1 then call('HDEL', T .. 'counts', unpack(ARGV, 7, 6 + n)) end
local outcomes, o, unmarked, t, ends, e = {}, 0, {}, 0, {}, 0
for i = 1, n do
  local outcome = ARGV[6 + 2 * n + i]
  if outcome == '' then
    t = t + 1
    unmarked[t] = ARGV[6 + i]
  else
    local comma, node = string.find(outcome, ',', 1, true), ARGV[6 + 3 * n + i]
    local value, channel = string.sub(outcome, comma + 1), string.sub(outcome, 1, comma - 1)
    if node and node ~= '' then
      ends[e + 1], ends[e + 2], ends[e + 3] = ARGV[6 + i], value, channel
      ends[e + 4], ends[e + 5], ends[e + 6] = string.match(node, '^([^:]*):(%d+):(%d*)$')
      ends[e + 7] = '0'
      e = e + 7
    else
      outcomes[o + 1], outcomes[o + 2], outcomes[o + 3] = ARGV[6 + i], value, channel
      o = o + 3
    end
  end
end
if t > 0 then mark(T, unmarked, instant(ARGV[2])) end
if o > 0 then keep(outcomes, ARGV[4]) end
if e > 0 then conclude(ends, ARGV[4]) end
return 1
