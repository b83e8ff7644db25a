local P = ARGV[1]
local call = redis.call

local function instant(given)
  if given ~= '' then return tonumber(given) end
  local t = call('TIME')
  return t[1] + t[2] / 1000000
end

-- Make the first write of a script one that Redis also accepts at `maxmemory`: all later writes are accepted then.
local function begin_writing() call('DEL', P .. ':nothing') end

-- Return the prefix of a queue's keys; and the queue of such a prefix.
local function tag(queue) return P .. ':{' .. queue .. '}:' end
local function queue_of(T) return string.sub(T, #P + 3, -3) end

-- Call a command with any number of items, 1,000 at a time because Lua's stack is small. Return the last reply.
local function many(command, key, items)
  local reply
  for i = 1, #items, 1000 do reply = call(command, key, unpack(items, i, math.min(i + 999, #items))) end
  return reply
end

-- Wake one worker that waits for a lane of a queue list; `mark` is '+' and the list's name. If none waits, note where
-- the mark has to go back when one does. Return whether a worker was woken.
local SHORT = 60  -- seconds; state of waiting workers, which all refresh sooner, expires after this
local function ring_list(T, lane, mark)
  local waiters = P .. ':waiters:' .. string.sub(mark, 2) .. ':' .. lane
  while true do
    local lease = call('SPOP', waiters)
    if not lease then
      local unmarked = P .. ':unmarked:' .. string.sub(mark, 2) .. ':' .. lane
      call('SADD', unmarked, T)
      call('EXPIRE', unmarked, SHORT)
      return false
    end
    if call('PUBLISH', P .. ':bell:' .. lease, '') > 0 then
      call('SADD', T .. 'waiters:' .. lane, mark)
      call('SADD', P .. ':rung:' .. lease, T .. lane)
      call('EXPIRE', P .. ':rung:' .. lease, SHORT)
      return true
    end
  end
end

-- Lanes of queues whose messages this script will deliver itself, so that no worker is woken for them before that: by
-- T .. lane, or all queues of a list. `deferred` collects those of the list for which a worker would have been woken.
local hushed = {}
local hushed_list, hushed_lanes
local deferred = {}

-- Wake one live worker that waits for a lane of a queue, if there is one.
local function ring(T, lane)
  if hushed[T .. lane] then return end
  if hushed_list and hushed_lanes[lane] and call('ZSCORE', hushed_list, queue_of(T)) then
    deferred[T .. lane] = true
    return
  end
  while true do
    local waiter = call('SPOP', T .. 'waiters:' .. lane)
    if not waiter then return end
    if string.byte(waiter) == 43 then
      if ring_list(T, lane, waiter) then return end
    elseif call('PUBLISH', P .. ':bell:' .. waiter, '') > 0 then
      return
    end
  end
end

local function has_ready(T, lane)
  local r = T .. 'ready:' .. lane
  return call('EXISTS', r..'9', r..'8', r..'7', r..'6', r..'5', r..'4', r..'3', r..'2', r..'1', r..'0') > 0
end

-- Collects the messages that `put` then stores together, as ready or as scheduled.
local function batch() return {lines = {}, due = {}, lane_of = {}} end

-- Add a message that is due at an instant, after a time (`+` and seconds), or at once ('').
local function add(at, id, blob, due, time)
  if string.byte(due) == 43 then due = string.format('%.6f', time + tonumber(string.sub(due, 2))) end
  if due ~= '' and tonumber(due) > time then
    table.insert(at.due, due)
    table.insert(at.due, id)
    at.lane_of[id] = string.sub(blob, 1, 1)
  else
    local line = string.sub(blob, 1, 2)
    if not at.lines[line] then at.lines[line] = {} end
    table.insert(at.lines[line], id)
  end
end

local function put(T, at, push)
  local lanes = {}
  for line, ids in pairs(at.lines) do
    local lane = string.sub(line, 1, 1)
    if many(push, T .. 'ready:' .. line, ids) == #ids then call('SADD', P .. ':ready:' .. lane, queue_of(T)) end
    lanes[lane] = true
  end
  if #at.due > 0 then
    many('ZADD', T .. 'due', at.due)
    local soonest = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')
    call('ZADD', P .. ':soonest', 'LT', soonest[2], queue_of(T))
    local lane = at.lane_of[soonest[1]]
    if lane then lanes[lane] = true end  -- a waiting worker must now wake up earlier
  end
  for lane in pairs(lanes) do ring(T, lane) end
end

-- Store new messages of one queue (id, blob, due; flat), from `first` to `last`.
local function publish(queue, items, first, last, time)
  local T, at, added = tag(queue), batch(), 0
  for i = first, last, 3 do
    if call('HSETNX', T .. 'messages', items[i], items[i + 1]) == 1 then
      added = added + 1
      add(at, items[i], items[i + 1], items[i + 2], time)
    end
  end
  if added > 0 then
    if call('HLEN', T .. 'messages') == added then call('SADD', P .. ':queues', queue) end
    put(T, at, 'RPUSH')
  end
end

-- Return whether a message with an id made by Celeriac (UUID version 7) has ended recently: it has left an outcome or a
-- mark. Ids chosen by callers may be reused, so that nothing follows from them.
local MARKED = 20  -- seconds
local function ended(T, id, time)
  if #id ~= 36 or string.sub(id, 15, 15) ~= '7' then return false end
  if call('GETRANGE', P .. ':outcome:' .. id, 0, 0) == '1' then return true end
  local spell = math.floor(time / MARKED)
  return call('SISMEMBER', T .. 'ended:' .. spell, id) == 1 or call('SISMEMBER', T .. 'ended:' .. spell - 1, id) == 1
end

-- Mark messages that have ended without leaving an outcome.
local function mark(T, ids, time)
  local key = string.format('%sended:%.0f', T, math.floor(time / MARKED))
  call('SADD', key, unpack(ids))
  call('EXPIRE', key, 2 * MARKED)
end

-- Move up to 1,000 scheduled messages whose time has come to the front of their lines, the soonest first.
local function make_due_ready(T, time)
  local ids = call('ZRANGE', T .. 'due', '-inf', time, 'BYSCORE', 'LIMIT', 0, 1000)
  if #ids == 0 then return end
  call('ZREM', T .. 'due', unpack(ids))
  local blobs, at = call('HMGET', T .. 'messages', unpack(ids)), batch()
  for i = #ids, 1, -1 do
    if blobs[i] then add(at, ids[i], blobs[i], '', time) end
  end
  put(T, at, 'LPUSH')
end

-- Return held messages ({receipt, id, deliveries}, in any order) to the front of their lines.
local function requeue(T, entries)
  if #entries == 0 then return end
  table.sort(entries, function(a, b) return a[1] > b[1] end)
  local at = batch()
  for _, entry in ipairs(entries) do
    local blob = call('HGET', T .. 'messages', entry[2])
    if blob then
      add(at, entry[2], blob, '', 0)
      if entry[3] > 0 then call('HSET', T .. 'counts', entry[2], entry[3]) end
    end
  end
  put(T, at, 'LPUSH')
end

-- A held message's value is "receipt:deliveries" and this tail. The tail is so long that Redis never stores the hash as
-- a packed list, which it would search from end to end for each id of a batch.
local TAIL = ':' .. string.rep(' ', 64)
local function proof(text)
  local receipt, deliveries = string.match(text, '^(-?%d+):(-?%d+)')
  return tonumber(receipt), tonumber(deliveries)
end

-- Store outcomes {id, value, channel}, flat; a value begins with 1 if it is final. Return 1 or 0 for each.
local LARGEST = 4096  -- bytes; of larger values, only the id is published
local function keep(outcomes, ttl)
  local done, news, recent, n, r = {}, {}, {}, 0, 0
  for i = 1, #outcomes, 3 do
    local id, value, channel = outcomes[i], outcomes[i + 1], outcomes[i + 2]
    local key, stored = P .. ':outcome:' .. id, nil
    if ttl ~= '' then stored = call('SET', key, value, 'NX', 'PX', ttl) else stored = call('SET', key, value, 'NX') end
    if not stored and call('GETRANGE', key, 0, 0) ~= '1' then
      if ttl ~= '' then stored = call('SET', key, value, 'PX', ttl) else stored = call('SET', key, value) end
    end
    n = n + 1
    done[n] = stored and 1 or 0
    if stored then
      r = r + 1
      recent[r] = id
      if string.byte(value) == 49 then
        local item = #id .. '\0' .. id .. (#value <= LARGEST and #value .. '\0' .. value or '\0')
        if news[channel] then table.insert(news[channel], item) else news[channel] = {item} end
      end
    end
  end
  if r > 0 then
    many('LPUSH', P .. ':recent', recent)
    call('LTRIM', P .. ':recent', 0, 9999)
    if ttl ~= '' then call('PEXPIRE', P .. ':recent', ttl) end
  end
  for channel, items in pairs(news) do call('PUBLISH', P .. ':done:' .. channel, table.concat(items)) end
  return done
end

-- Delete a delayed message, of which this is known: its token, whether it may have been moved, its queue.
local function forget_delayed(id, known)
  local D, queue = P .. ':delays', string.match(known, '^%d+ %d (.*)$')
  call('ZREM', D, id)
  call('ZREM', D .. ':held', id)
  call('HDEL', D .. ':about', id)
  call('HDEL', D .. ':data', id)
  call('ZREM', D .. ':of:' .. queue, id)
  if call('EXISTS', D .. ':of:' .. queue) == 0 then call('SREM', D .. ':queues', queue) end
end

-- Hold a delayed message for some seconds, unless another holds it, and add it to `found`. Return whether it is held now.
-- The same token holds it again: the reply to a first request may have been lost.
local function take_delayed(id, time, seconds, token, found)
  local D = P .. ':delays'
  local due, known = call('ZSCORE', D, id), call('HGET', D .. ':about', id)
  local before, again, queue = string.match(known or '', '^(%d+) (%d) (.*)$')
  if not due or not before then return false end
  local held = call('ZSCORE', D .. ':held', id)
  if held and tonumber(held) > time and before ~= token then return false end
  if before ~= '0' and before ~= token then again = '1' end
  call('HSET', D .. ':about', id, token .. ' ' .. again .. ' ' .. queue)
  call('ZADD', D .. ':held', string.format('%.6f', time + tonumber(seconds)), id)
  for _, part in ipairs({id, queue, due, again, call('HGET', D .. ':data', id) or ''}) do table.insert(found, part) end
  return true
end

-- Take up to `limit` delayed messages in the order of a set, up to a time.
local function take_delayed_from(key, last, time, seconds, token, limit, found)
  local offset, page, taken = 0, 1000, 0
  while taken < limit do
    local ids = call('ZRANGEBYSCORE', key, '-inf', last, 'LIMIT', offset, page)
    for _, id in ipairs(ids) do
      if taken < limit and take_delayed(id, time, seconds, token, found) then taken = taken + 1 end
    end
    if #ids < page then return end
    offset = offset + page
  end
end
