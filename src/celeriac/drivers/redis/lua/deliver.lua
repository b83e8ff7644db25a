-- Return whether a lease may receive messages with receipts above `base`: nil if the lease is lost, false if a
-- `recover` has overtaken the request.
local function may_deliver(lease, base)
  local fence = call('HGET', P .. ':fences', lease)
  if fence then return tonumber(fence) <= tonumber(base) end
end

-- Read a request for messages from ARGV: base receipt; waits (1: the lease was waiting and may have been woken; 2: from
-- now on it waits for its slots that stay free; 3: both; 0: neither); n; n pairs of lane and slots; then '' and the
-- names of queues, or the name of a queue list and the position in it to start from.
local function read_request(first, last)
  local n = tonumber(ARGV[first + 2])
  local list, free, lanes = first + 3 + 2 * n, {}, {}
  for i = first + 3, list - 1, 2 do
    table.insert(lanes, ARGV[i])
    free[ARGV[i]] = tonumber(ARGV[i + 1])
  end
  return {base = tonumber(ARGV[first]), waits = tonumber(ARGV[first + 1]), free = free, lanes = lanes,
          list = ARGV[list], first = list + 1, last = last, blobs = {}, total = 0, exceptions = {}, runs = {}}
end

-- Return the reply to a request: {blobs, exceptions, seconds until the next message becomes due or '', runs}. The
-- receipts are base + 1, base + 2 …; exceptions are flat: index of the blob, deliveries, 1 if it is revoked; so are
-- runs: how many blobs, and the queue that they were taken from.
local function answer(request, soonest, time)
  return {request.blobs, request.exceptions, soonest and string.format('%.6f', soonest - time) or '', request.runs}
end

-- Wake nobody for lines from which the request will be served.
local function hush(request)
  if request.list ~= '' then
    hushed_list, hushed_lanes = P .. ':list:' .. request.list, request.free
    return
  end
  for q = request.first, request.last do
    for _, lane in ipairs(request.lanes) do hushed[tag(ARGV[q]) .. lane] = true end
  end
end

-- Move ready messages of a lane of a queue to the lease, until the slots are full or no message is left.
local function take(lease, time, request, T, lane, rare, revocations)
  local r, free, blobs, total, base = T .. 'ready:' .. lane, request.free, request.blobs, request.total, request.base
  local ONCE = ':1' .. TAIL
  while free[lane] > 0 do
    local popped = call('LMPOP', 10, r..'9', r..'8', r..'7', r..'6', r..'5', r..'4', r..'3', r..'2', r..'1', r..'0',
                        'LEFT', 'COUNT', math.min(free[lane], 1000))
    if not popped then break end
    local ids, held = popped[2], {}
    local found = call('HMGET', T .. 'messages', unpack(ids))
    local counts = rare and call('EXISTS', T .. 'counts') == 1 and call('HMGET', T .. 'counts', unpack(ids))
    local revoked = revocations and call('ZMSCORE', P .. ':revoked', unpack(ids))
    local h, before = 0, total
    for i, id in ipairs(ids) do
      if found[i] then
        local deliveries = 1 + (counts and counts[i] or 0)
        local bad = revoked and revoked[i] and tonumber(revoked[i]) > time
        total = total + 1
        blobs[total] = found[i]
        held[h + 1] = id
        h = h + 2
        if deliveries == 1 and not bad then
          held[h] = base + total .. ONCE
        else
          held[h] = base + total .. ':' .. deliveries .. TAIL
          for _, part in ipairs({total - 1, deliveries, bad and 1 or 0}) do table.insert(request.exceptions, part) end
        end
      end
    end
    free[lane] = free[lane] - (total - before)
    if h > 0 then
      many('HSET', T .. 'held:' .. lease, held)
      table.insert(request.runs, total - before)
      table.insert(request.runs, queue_of(T))
    end
  end
  request.total = total
end

-- Serve a request that names its queues, by looking into each.
local function deliver_from_queues(lease, time, request)
  hush(request)
  local waits, free, lanes = request.waits, request.free, request.lanes
  local keys = {P .. ':revoked', P .. ':paused'}
  for q = request.first, request.last do table.insert(keys, tag(ARGV[q]) .. 'counts') end
  local rare = call('EXISTS', unpack(keys)) > 0  -- usually none of these keys exists, which takes one command to see
  local revocations = rare and call('EXISTS', P .. ':revoked') == 1
  local pauses = rare and call('EXISTS', P .. ':paused') == 1
  local soonest, paused, first_due = nil, {}, {}
  for q = request.first, request.last do
    local T = tag(ARGV[q])
    paused[q] = pauses and call('SISMEMBER', P .. ':paused', ARGV[q]) == 1
    if not paused[q] then
      first_due[q] = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
      if first_due[q] and tonumber(first_due[q]) <= time then
        make_due_ready(T, time)
        first_due[q] = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
      end
      for _, lane in ipairs(lanes) do take(lease, time, request, T, lane, rare, revocations) end
    end
  end
  if #request.blobs == 0 and waits >= 2 then begin_writing() end
  hushed = {}
  for q = request.first, request.last do
    local T = tag(ARGV[q])
    local due = first_due[q]
    if due and (not soonest or tonumber(due) < soonest) then soonest = tonumber(due) end
    for _, lane in ipairs(lanes) do
      if waits >= 2 and free[lane] > 0 then
        call('SADD', T .. 'waiters:' .. lane, lease)
      else
        if waits % 2 == 1 then call('SREM', T .. 'waiters:' .. lane, lease) end
        -- Another worker may start the messages that are left: wake one, which will wake the next.
        if call('EXISTS', T .. 'waiters:' .. lane) == 1
            and not paused[q] and (has_ready(T, lane) or (waits % 2 == 1 and due)) then ring(T, lane) end
      end
    end
  end
  return answer(request, soonest, time)
end

-- Wake another worker for those lanes of queues (T .. lane, as keys) that have ready messages, or scheduled ones where
-- the value is 'due': the worker that was woken for them first has no slot for them.
local function pass_on(entries)
  for entry, why in pairs(entries) do
    local T, lane = string.sub(entry, 1, -2), string.sub(entry, -1)
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and call('SISMEMBER', P .. ':paused', queue_of(T)) == 0
        and (has_ready(T, lane) or (why == 'due' and call('EXISTS', T .. 'due') == 1)) then ring(T, lane) end
  end
end

-- Move what a lease was woken for, in lanes for which it does not wait any more, from P:rung to `entries`.
local function collect_rung(lease, waiting, entries)
  local key = P .. ':rung:' .. lease
  for _, entry in ipairs(call('SMEMBERS', key)) do
    if not waiting[string.sub(entry, -1)] then
      call('SREM', key, entry)
      entries[entry] = 'due'
    elseif call('EXISTS', string.sub(entry, 1, -2) .. 'due') == 0 then
      call('SREM', key, entry)
    end
  end
end

-- Make ready what is due in up to 100 queues, whichever they are, and note when the next message of each becomes due.
local function make_all_due_ready(time)
  for _, queue in ipairs(call('ZRANGE', P .. ':soonest', '-inf', time, 'BYSCORE', 'LIMIT', 0, 100)) do
    local T = tag(queue)
    make_due_ready(T, time)
    local first = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
    if first then call('ZADD', P .. ':soonest', first, queue) else call('ZREM', P .. ':soonest', queue) end
  end
end

-- Return when the next message of a queue list becomes due, or nil: exact if the queue is one of the 100 soonest, else
-- the last of their times.
local function soonest_of(list)
  local rows, names = call('ZRANGE', P .. ':soonest', 0, 99, 'WITHSCORES'), {}
  if #rows == 0 then return nil end
  for i = 1, #rows, 2 do names[(i + 1) / 2] = rows[i] end
  local known = call('ZMSCORE', list, unpack(names))
  for i = 1, #names do
    if known[i] then return tonumber(rows[2 * i]) end
  end
  if #names == 100 then return tonumber(rows[200]) end
end

-- Return the queues of a list that are in an index, in the order of their positions, from `start` on.
local function ready_queues(index, list, start)
  local found, queues = call('ZINTER', 2, index, list, 'WEIGHTS', 0, 1, 'WITHSCORES'), {}
  local n, offset = #found / 2, 0
  while offset < n and tonumber(found[2 * offset + 2]) < start do offset = offset + 1 end
  for i = offset, offset + n - 1 do queues[i - offset + 1] = found[2 * (i % n) + 1] end
  return queues
end

-- Return those of the 32 queues from position `start` of a list on that are in an index.
local function near_ready_queues(index, list, start)
  local near, queues = call('ZRANGE', list, start, start + 31), {}
  for i, found in ipairs(call('SMISMEMBER', index, unpack(near))) do
    if found == 1 then table.insert(queues, near[i]) end
  end
  return queues
end

-- Serve a request that names a queue list. The cost depends on the queues that have messages, not on the length of the
-- list.
local function deliver_from_list(lease, time, request)
  hush(request)
  local waits, free, name = request.waits, request.free, request.list
  local list, start = P .. ':list:' .. name, tonumber(ARGV[request.first])
  begin_writing()
  make_all_due_ready(time)
  local revocations = call('EXISTS', P .. ':revoked') == 1
  local pauses = call('EXISTS', P .. ':paused') == 1
  for _, lane in ipairs(request.lanes) do
    local index = P .. ':ready:' .. lane
    local function take_from(queues)
      for _, queue in ipairs(queues) do
        if free[lane] == 0 then break end
        if not pauses or call('SISMEMBER', P .. ':paused', queue) == 0 then
          local T = tag(queue)
          take(lease, time, request, T, lane, true, revocations)
          if free[lane] > 0 then call('SREM', index, queue) else deferred[T .. lane] = true end
        end
      end
    end
    -- If many queues have messages, a few of them usually fill the slots.
    if free[lane] > 0 and call('SCARD', index) > 64 then take_from(near_ready_queues(index, list, start)) end
    if free[lane] > 0 then take_from(ready_queues(index, list, start)) end
  end
  local waiting = {}
  hushed_list = nil
  for _, lane in ipairs(request.lanes) do
    local waiters, unmarked = P .. ':waiters:' .. name .. ':' .. lane, P .. ':unmarked:' .. name .. ':' .. lane
    if waits >= 2 and free[lane] > 0 then
      waiting[lane] = true
      call('SADD', waiters, lease)
      call('EXPIRE', waiters, SHORT)
      for _, T in ipairs(call('SMEMBERS', unmarked)) do call('SADD', T .. 'waiters:' .. lane, '+' .. name) end
      call('DEL', unmarked)
    else
      call('SREM', waiters, lease)
    end
  end
  collect_rung(lease, waiting, deferred)
  for entry in pairs(deferred) do
    if waiting[string.sub(entry, -1)] then deferred[entry] = nil end
  end
  pass_on(deferred)
  return answer(request, soonest_of(list), time)
end
