-- now, lease, milliseconds that outcomes are kept ('' for ever), k, then k arguments of a request for messages (see
-- deliver.lua; k = 0: no request), which is served after settling; n, then n settlements, flat:
-- queue, id, "receipt:deliveries", action, value of the outcome or '', its channel,
-- and if the action is `return`: queue, blob, due, deliveries; if it is `bury`: reason;
-- then the number of ends of workflows' nodes, and these, flat: number of its settlement, workflow, node, its join
-- or '', 1 if it leaves a pending node; then the follow-ups, flat: number of its settlement, queue, id, blob, due.
-- Returns {for each settlement 1, or 0 if its token was stale; the reply to the request, unless it was refused}.
local time, lease, ttl, k = instant(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local request = k > 0 and may_deliver(lease, ARGV[6]) and read_request(6, 5 + k)
if request and request.list ~= '' and call('EXISTS', P .. ':list:' .. request.list) == 0 then request = false end
if request then hush(request) end
local size, at, arg = {acknowledge = 6, bury = 7, ['return'] = 10}, {}, 7 + k
local groups, done, outcomes, o, keeping = {}, {}, {}, 0, {}
for i = 1, tonumber(ARGV[6 + k]) do
  at[i] = arg
  local group = groups[ARGV[arg]]
  if group then
    group.n = group.n + 1
  else
    group = {n = 1, ids = {}, items = {}, gone = {}, released = {}, settled = {}, back = {}, without_outcome = {}}
    groups[ARGV[arg]] = group
  end
  group.ids[group.n] = ARGV[arg + 1]
  group.items[group.n] = i
  arg = arg + size[ARGV[arg + 3]]
end
local node, ends, ending = {}, {}, {}
for i = arg + 1, arg + 5 * ARGV[arg], 5 do node[tonumber(ARGV[i])] = i end
arg = arg + 1 + 5 * ARGV[arg]
for queue, group in pairs(groups) do
  local T, settled, released, gone, r, g = tag(queue), group.settled, group.released, group.gone, 0, 0
  local held = call('HMGET', T .. 'held:' .. lease, unpack(group.ids))
  for j, i in ipairs(group.items) do
    local id, a = group.ids[j], at[i]
    if held[j] == ARGV[a + 2] .. TAIL and not settled[id] then
      done[i] = 1
      settled[id] = true
      r = r + 1
      released[r] = id
      if ARGV[a + 3] == 'acknowledge' then
        g = g + 1
        gone[g] = id
      else
        table.insert(group.back, a)
      end
      if ARGV[a + 4] ~= '' and not node[i] then
        outcomes[o + 1], outcomes[o + 2], outcomes[o + 3] = id, ARGV[a + 4], ARGV[a + 5]
        keeping[#keeping + 1] = i
        o = o + 3
      elseif ARGV[a + 4] == '' and ARGV[a + 3] == 'acknowledge' then
        table.insert(group.without_outcome, id)
      end
    else
      done[i] = 0
    end
  end
  if r > 0 then
    call('HDEL', T .. 'held:' .. lease, unpack(released))
    if call('EXISTS', T .. 'counts') == 1 then call('HDEL', T .. 'counts', unpack(released)) end
    if g > 0 then call('HDEL', T .. 'messages', unpack(gone)) end
    if #group.without_outcome > 0 then mark(T, group.without_outcome, time) end
  end
end
for queue, group in pairs(groups) do
  local T, batch_of = tag(queue), {}
  for k = #group.back, 1, -1 do  -- the oldest is pushed to the front last
    local a = group.back[k]
    local id = ARGV[a + 1]
    if ARGV[a + 3] == 'bury' then
      call('ZADD', T .. 'dead', time, id)
      call('HSET', T .. 'reasons', id, ARGV[a + 6])
    else
      local U = tag(ARGV[a + 6])
      if ARGV[a + 6] ~= queue then
        call('HDEL', T .. 'messages', id)
        call('SADD', P .. ':queues', ARGV[a + 6])
      end
      call('HSET', U .. 'messages', id, ARGV[a + 7])
      if tonumber(ARGV[a + 9]) > 0 then call('HSET', U .. 'counts', id, ARGV[a + 9]) end
      if not batch_of[U] then batch_of[U] = batch() end
      add(batch_of[U], id, ARGV[a + 7], ARGV[a + 8], time)
    end
  end
  for U, its in pairs(batch_of) do put(U, its, 'LPUSH') end
end
local again, e = {}, 0  -- settlements of messages that had ended before: their follow-ups were published then
if o > 0 then
  for n, new in ipairs(keep(outcomes, ttl)) do again[keeping[n]] = new == 0 end
end
for i, n in pairs(node) do
  if done[i] == 1 then
    local a = at[i]
    ends[e + 1], ends[e + 2], ends[e + 3] = ARGV[a + 1], ARGV[a + 4], ARGV[a + 5]
    ends[e + 4], ends[e + 5], ends[e + 6], ends[e + 7] = ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
    e = e + 7
    ending[e / 7] = i
  end
end
if e > 0 then
  for n, new in ipairs(conclude(ends, ttl)) do again[ending[n]] = new == 0 end
end
for i = arg, #ARGV, 5 do
  local number = tonumber(ARGV[i])
  if done[number] == 1 and not again[number] then publish(ARGV[i + 1], ARGV, i + 2, i + 4, time) end
end
if not request then return {done} end
return {done, (request.list == '' and deliver_from_queues or deliver_from_list)(lease, time, request)}
