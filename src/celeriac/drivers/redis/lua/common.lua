local P = ARGV[1]
local call = redis.call

local function instant(given)
  if given ~= '' then return tonumber(given) end
  local t = call('TIME')
  return t[1] + t[2] / 1000000
end

local function relieve() call('DEL', P .. ':nothing') end

local function tag(queue) return P .. ':{' .. queue .. '}:' end

-- Call with any number of arguments, a thousand at a time: Lua's stack is small.
local function many(command, key, items)
  for i = 1, #items, 1000 do call(command, key, unpack(items, i, math.min(i + 999, #items))) end
end

-- Lines that the script itself looks at before it ends, so that nobody need be woken for them until then.
local hushed = {}

-- Wake one worker that waits for a lane of a queue, if there is any that lives.
local function ring(T, lane)
  while not hushed[T .. lane] do
    local lease = call('SPOP', T .. 'waiters:' .. lane)
    if not lease or call('PUBLISH', P .. ':bell:' .. lease, '') > 0 then return end
  end
end

local function stands(T, lane)
  local r = T .. 'ready:' .. lane
  return call('EXISTS', r..'9', r..'8', r..'7', r..'6', r..'5', r..'4', r..'3', r..'2', r..'1', r..'0') > 0
end

-- Collects messages that go to their lines or to wait for their time, and then puts them there together.
local function places() return {lines = {}, due = {}, lane_of = {}} end

local function place(at, id, blob, due, time)
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
    many(push, T .. 'ready:' .. line, ids)
    lanes[string.sub(line, 1, 1)] = true
  end
  if #at.due > 0 then
    many('ZADD', T .. 'due', at.due)
    local lane = at.lane_of[call('ZRANGE', T .. 'due', 0, 0)[1]]
    if lane then lanes[lane] = true end  -- whoever waits must now wake earlier
  end
  for lane in pairs(lanes) do ring(T, lane) end
end

-- Store new messages of one queue (id, blob, due; flat), from `first` to `last`.
local function publish(queue, items, first, last, time)
  local T, at, added = tag(queue), places(), 0
  for i = first, last, 3 do
    if call('HSETNX', T .. 'messages', items[i], items[i + 1]) == 1 then
      added = added + 1
      place(at, items[i], items[i + 1], items[i + 2], time)
    end
  end
  if added > 0 then
    if call('HLEN', T .. 'messages') == added then call('SADD', P .. ':queues', queue) end
    put(T, at, 'RPUSH')
  end
end

-- Say whether a message of an id of ours (UUID version 7) has ended lately: then it has left an outcome, or a mark. Ids
-- that callers chose may be used again, and tell nothing.
local MARKED = 20  -- seconds
local function ended(T, id, time)
  if #id ~= 36 or string.sub(id, 15, 15) ~= '7' then return false end
  if call('GETRANGE', P .. ':outcome:' .. id, 0, 0) == '1' then return true end
  local spell = math.floor(time / MARKED)
  return call('SISMEMBER', T .. 'ended:' .. spell, id) == 1 or call('SISMEMBER', T .. 'ended:' .. spell - 1, id) == 1
end

-- Mark what has ended without leaving an outcome.
local function mark(T, ids, time)
  local key = string.format('%sended:%.0f', T, math.floor(time / MARKED))
  call('SADD', key, unpack(ids))
  call('EXPIRE', key, 2 * MARKED)
end

-- Make ready what is due, in front of its line, the soonest first.
local function wake(T, time)
  local ids = call('ZRANGE', T .. 'due', '-inf', time, 'BYSCORE', 'LIMIT', 0, 1000)
  if #ids == 0 then return end
  call('ZREM', T .. 'due', unpack(ids))
  local blobs, at = call('HMGET', T .. 'messages', unpack(ids)), places()
  for i = #ids, 1, -1 do
    if blobs[i] then place(at, ids[i], blobs[i], '', time) end
  end
  put(T, at, 'LPUSH')
end

-- Give held messages back to the fronts of their lines: {receipt, id, deliveries}, in any order.
local function give_back(T, entries)
  if #entries == 0 then return end
  table.sort(entries, function(a, b) return a[1] > b[1] end)
  local at = places()
  for _, entry in ipairs(entries) do
    local blob = call('HGET', T .. 'messages', entry[2])
    if blob then
      place(at, entry[2], blob, '', 0)
      if entry[3] > 0 then call('HSET', T .. 'counts', entry[2], entry[3]) end
    end
  end
  put(T, at, 'LPUSH')
end

-- What is held is "receipt:deliveries" and a tail, so long that Redis never packs the hash into a list, which it would
-- search from end to end for each of a batch.
local TAIL = ':' .. string.rep(' ', 64)
local function proof(text)
  local receipt, deliveries = string.match(text, '^(-?%d+):(-?%d+)')
  return tonumber(receipt), tonumber(deliveries)
end

-- Store outcomes {id, value, channel}, flat; a value begins with 1 if it is final. Return 1 or 0 for each.
local TOLD = 4096  -- bytes; a value that is larger is not told to all who listen, but that it is there
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
        local told = #id .. '\0' .. id .. (#value <= TOLD and #value .. '\0' .. value or '\0')
        if news[channel] then table.insert(news[channel], told) else news[channel] = {told} end
      end
    end
  end
  if r > 0 then
    many('LPUSH', P .. ':recent', recent)
    call('LTRIM', P .. ':recent', 0, 9999)
    if ttl ~= '' then call('PEXPIRE', P .. ':recent', ttl) end
  end
  for channel, told in pairs(news) do call('PUBLISH', P .. ':done:' .. channel, table.concat(told)) end
  return done
end
