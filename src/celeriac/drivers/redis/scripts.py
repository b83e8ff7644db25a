"""The Lua scripts. Each says its ARGV (after the prefix, ARGV[1]) and what it returns; `keys` has the keys.

Every script is one atomic step. KEYS[1] is the key `queues`; the other keys follow from the prefix and the names of
queues. In all of them `now` is seconds since the epoch, or '' for the server's own clock, so that skewed clocks of
workers' machines do not matter. What workers need to empty a full server must work there: Redis refuses a script that
wants more memory only until it has written, and so their first write is one that frees some, or would (`relieve`).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["SCRIPTS", "Script"]

COMMON: Final = """
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

-- Wake one worker that waits for a lane of a queue, if there is any that lives.
local function ring(T, lane)
  while true do
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
        if news[channel] then table.insert(news[channel], id) else news[channel] = {id} end
      end
    end
  end
  if r > 0 then
    many('LPUSH', P .. ':recent', recent)
    call('LTRIM', P .. ':recent', 0, 9999)
    if ttl ~= '' then call('PEXPIRE', P .. ':recent', ttl) end
  end
  for channel, ids in pairs(news) do call('PUBLISH', P .. ':done:' .. channel, table.concat(ids, '\\0')) end
  return done
end
"""


class Script:
    """A script, and its SHA1."""

    def __init__(self, name: str, body: str) -> None:
        self.name = name
        self.source = _needed(body) + body
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


BODIES: Final = {
    # queue, now ('0' where no message waits for its time), then for each message id, blob, due ('' for at once).
    "publish": """
publish(ARGV[2], ARGV, 4, #ARGV, instant(ARGV[3]))
return 1
""",
    # queue, id, blob. The shortest way for one message that is due.
    "publish_one": """
local T = P .. ':{' .. ARGV[2] .. '}:'
if call('HSETNX', T .. 'messages', ARGV[3], ARGV[4]) == 1 then
  local line = string.sub(ARGV[4], 1, 2)
  if call('RPUSH', T .. 'ready:' .. line, ARGV[3]) == 1 then call('SADD', P .. ':queues', ARGV[2]) end
  while true do
    local lease = call('SPOP', T .. 'waiters:' .. string.sub(line, 1, 1))
    if not lease or call('PUBLISH', P .. ':bell:' .. lease, '') > 0 then return 1 end
  end
end
return 0
""",
    # now, lease, seconds, info. Opens a lease.
    "enter": """
local time = instant(ARGV[2])
relieve()
call('ZADD', P .. ':leases', time + ARGV[4], ARGV[3])
call('HSET', P .. ':workers', ARGV[3], ARGV[5])
call('HSET', P .. ':fences', ARGV[3], 0)
return 1
""",
    # now, lease, seconds. Returns 1, or 0 where the lease is lost.
    "renew": """
if not call('ZSCORE', P .. ':leases', ARGV[3]) then return 0 end
relieve()
call('ZADD', P .. ':leases', instant(ARGV[2]) + ARGV[4], ARGV[3])
return 1
""",
    # now, lease, base receipt, waits (1: it waited, and may be rung; 2: it did not, but will wait if there is nothing;
    # 3: both; 0: neither), n, then n pairs lane, slots, then queues.
    # Returns 0 where the lease is lost, else {blobs, exceptions, seconds to the next due time or ''}. The receipts
    # are base + 1, base + 2 …; exceptions are flat: index of the blob, deliveries, 1 if it is revoked.
    "receive": """
local lease, base, waits, n = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local fence = call('HGET', P .. ':fences', lease)
if not fence then return 0 end
if tonumber(fence) > base then return {{}, {}, '0'} end
local time = instant(ARGV[2])
local free, lanes = {}, {}
for i = 7, 6 + 2 * n, 2 do
  table.insert(lanes, ARGV[i])
  free[ARGV[i]] = tonumber(ARGV[i + 1])
end
local revocations = call('EXISTS', P .. ':revoked') == 1
local pauses = call('EXISTS', P .. ':paused') == 1
local blobs, total, exceptions, soonest, paused = {}, 0, {}, nil, {}
local ONCE = ':1' .. TAIL
for q = 7 + 2 * n, #ARGV do
  local T = tag(ARGV[q])
  paused[q] = pauses and call('SISMEMBER', P .. ':paused', ARGV[q]) == 1
  if not paused[q] then
    wake(T, time)
    for _, lane in ipairs(lanes) do
      local r = T .. 'ready:' .. lane
      while free[lane] > 0 do
        local popped = call('LMPOP', 10, r..'9', r..'8', r..'7', r..'6', r..'5', r..'4', r..'3', r..'2', r..'1', r..'0',
                            'LEFT', 'COUNT', math.min(free[lane], 1000))
        if not popped then break end
        local ids, held = popped[2], {}
        local found = call('HMGET', T .. 'messages', unpack(ids))
        local counts = call('EXISTS', T .. 'counts') == 1 and call('HMGET', T .. 'counts', unpack(ids))
        local revoked = revocations and call('ZMSCORE', P .. ':revoked', unpack(ids))
        local h, first = 0, total
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
              for _, part in ipairs({total - 1, deliveries, bad and 1 or 0}) do table.insert(exceptions, part) end
            end
          end
        end
        free[lane] = free[lane] - (total - first)
        if h > 0 then many('HSET', T .. 'held:' .. lease, held) end
      end
    end
  end
end
local idle = #blobs == 0 and waits >= 2
if idle then relieve() end
for q = 7 + 2 * n, #ARGV do
  local T = tag(ARGV[q])
  local first = not paused[q] and call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
  if first and (not soonest or tonumber(first) < soonest) then soonest = tonumber(first) end
  for _, lane in ipairs(lanes) do
    if idle then
      call('SADD', T .. 'waiters:' .. lane, lease)
    else
      if waits % 2 == 1 then call('SREM', T .. 'waiters:' .. lane, lease) end
      -- What is left here, others may start: one is woken, and will wake the next.
      if call('EXISTS', T .. 'waiters:' .. lane) == 1
          and not paused[q] and (stands(T, lane) or (waits % 2 == 1 and first)) then ring(T, lane) end
    end
  end
end
return {blobs, exceptions, soonest and string.format('%.6f', soonest - time) or ''}
""",
    # lease, n, then n lanes, then queues. Takes back that a worker waits; what it was woken for, another is.
    "leave": """
local n = tonumber(ARGV[3])
for q = 4 + n, #ARGV do
  local T = tag(ARGV[q])
  for i = 4, 3 + n do
    local lane = ARGV[i]
    call('SREM', T .. 'waiters:' .. lane, ARGV[2])
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and (stands(T, lane) or call('EXISTS', T .. 'due') == 1) then
      ring(T, lane)
    end
  end
end
return 1
""",
    # now, lease, milliseconds that outcomes are kept ('' for ever), n, then n settlements, flat:
    # queue, id, "receipt:deliveries", action, value of the outcome or '', its channel,
    # and where the action is `return`: queue, blob, due, deliveries; where it is `bury`: reason;
    # then the follow-ups, flat: number of its settlement, queue, id, blob, due.
    # Returns for each 1, or 0 where the token was stale.
    "settle": """
local time, lease, ttl = instant(ARGV[2]), ARGV[3], ARGV[4]
local size, at, arg = {acknowledge = 6, bury = 7, ['return'] = 10}, {}, 6
local groups, done, outcomes, o = {}, {}, {}, 0
for i = 1, tonumber(ARGV[5]) do
  at[i] = arg
  local group = groups[ARGV[arg]]
  if group then
    group.n = group.n + 1
  else
    group = {n = 1, ids = {}, items = {}, gone = {}, released = {}, settled = {}, back = {}}
    groups[ARGV[arg]] = group
  end
  group.ids[group.n] = ARGV[arg + 1]
  group.items[group.n] = i
  arg = arg + size[ARGV[arg + 3]]
end
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
      if ARGV[a + 4] ~= '' then
        outcomes[o + 1], outcomes[o + 2], outcomes[o + 3] = id, ARGV[a + 4], ARGV[a + 5]
        o = o + 3
      end
    else
      done[i] = 0
    end
  end
  if r > 0 then
    call('HDEL', T .. 'held:' .. lease, unpack(released))
    if call('EXISTS', T .. 'counts') == 1 then call('HDEL', T .. 'counts', unpack(released)) end
    if g > 0 then call('HDEL', T .. 'messages', unpack(gone)) end
  end
end
for queue, group in pairs(groups) do
  local T, places_of = tag(queue), {}
  for k = #group.back, 1, -1 do  -- the oldest is put in front last
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
      if not places_of[U] then places_of[U] = places() end
      place(places_of[U], id, ARGV[a + 7], ARGV[a + 8], time)
    end
  end
  for U, its in pairs(places_of) do put(U, its, 'LPUSH') end
end
for i = arg, #ARGV, 5 do
  if done[tonumber(ARGV[i])] == 1 then publish(ARGV[i + 1], ARGV, i + 2, i + 4, time) end
end
if o > 0 then keep(outcomes, ttl) end
return done
""",
    # milliseconds that outcomes are kept ('' for ever), then id, value, channel of each. Returns 1 or 0 for each.
    "store": """
local outcomes = {}
for i = 3, #ARGV do outcomes[i - 2] = ARGV[i] end
return keep(outcomes, ARGV[2])
""",
    # now, lease, base receipt, most deliveries, limit, then pairs of receipts (from, to) of earlier sweeps whose answer
    # was lost. Gives back what leases that have run out held; those go when nothing is left of them. Returns 0 where
    # this lease is lost, else {1 if there is more to do, then flat what is taken over: blob, -receipt, deliveries}.
    "sweep": """
local time, lease, base = instant(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local most, limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local fence = call('HGET', P .. ':fences', lease)
if not fence then return 0 end
if tonumber(fence) > base then return {0} end
relieve()
local queues, taken, left, more = call('SMEMBERS', P .. ':queues'), {}, limit, 0
for d = 7, #ARGV, 2 do
  for _, queue in ipairs(queues) do
    local T = tag(queue)
    local all = call('HGETALL', T .. 'held:' .. lease)
    for i = 1, #all, 2 do
      local receipt, deliveries = proof(all[i + 1])
      if -receipt > tonumber(ARGV[d]) and -receipt <= tonumber(ARGV[d + 1]) then
        local blob = call('HGET', T .. 'messages', all[i])
        for _, part in ipairs({blob, -receipt, deliveries}) do table.insert(taken, part) end
      end
    end
  end
  call('HSET', P .. ':fences', lease, base)
end
local before = string.format('(%.17g', time)
for _, other in ipairs(call('ZRANGE', P .. ':leases', '-inf', before, 'BYSCORE', 'LIMIT', 0, 10)) do
  if other ~= lease then
    for _, queue in ipairs(queues) do
      local T = tag(queue)
      local key, back, passed, gone = T .. 'held:' .. other, {}, {}, {}
      local all = left > 0 and call('HRANDFIELD', key, left, 'WITHVALUES') or {}
      for i = 1, #all, 2 do
        local id, receipt, deliveries = all[i], proof(all[i + 1])
        local blob = call('HGET', T .. 'messages', id)
        table.insert(gone, id)
        if blob and string.sub(blob, 3, 3) == 'l' and deliveries < most and receipt > 0 then
          table.insert(back, {receipt, id, deliveries})
        elseif blob then
          base = base + 1
          table.insert(passed, id)
          table.insert(passed, string.format('-%.0f:%d', base, deliveries) .. TAIL)
          for _, part in ipairs({blob, base, deliveries}) do table.insert(taken, part) end
        end
      end
      left = left - #all / 2
      if #gone > 0 then call('HDEL', key, unpack(gone)) end
      if #passed > 0 then many('HSET', T .. 'held:' .. lease, passed) end
      give_back(T, back)
    end
    if left > 0 then
      call('ZREM', P .. ':leases', other)
      call('HDEL', P .. ':workers', other)
      call('HDEL', P .. ':fences', other)
    else
      more = 1
    end
  end
end
call('ZREMRANGEBYSCORE', P .. ':revoked', '-inf', time)
for _, queue in ipairs(queues) do
  local T = tag(queue)
  wake(T, time)
  -- A worker that was woken and then killed has woken nobody else.
  for _, lane in ipairs({'p', 'c'}) do
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and stands(T, lane)
        and call('SISMEMBER', P .. ':paused', queue) == 0 then ring(T, lane) end
  end
end
table.insert(taken, 1, more)
return taken
""",
    # lease, fence, then pairs of receipts (from, to). Gives back, uncounted, what was handed out in answers that were
    # lost, and refuses requests of before the fence that are still on their way. Returns 0 where the lease is lost.
    "recover": """
if not call('HGET', P .. ':fences', ARGV[2]) then return 0 end
relieve()
call('HSET', P .. ':fences', ARGV[2], ARGV[3])
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. ARGV[2], {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local receipt, deliveries = proof(all[i + 1])
    for d = 4, #ARGV, 2 do
      if receipt > tonumber(ARGV[d]) and receipt <= tonumber(ARGV[d + 1]) then
        call('HDEL', key, all[i])
        table.insert(back, {receipt, all[i], deliveries - 1})
      end
    end
  end
  give_back(T, back)
end
return 1
""",
    # lease. Gives back, uncounted, what it holds; what it had taken over is left for the next sweep.
    "end": """
local lease, kept = ARGV[2], false
relieve()
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  local key, back = T .. 'held:' .. lease, {}
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    local receipt, deliveries = proof(all[i + 1])
    if receipt > 0 then
      call('HDEL', key, all[i])
      table.insert(back, {receipt, all[i], deliveries - 1})
    else
      kept = true
    end
  end
  for _, lane in ipairs({'p', 'c'}) do call('SREM', T .. 'waiters:' .. lane, lease) end
  give_back(T, back)
end
if kept then
  if call('ZSCORE', P .. ':leases', lease) then call('ZADD', P .. ':leases', 0, lease) end
else
  call('ZREM', P .. ':leases', lease)
  call('HDEL', P .. ':workers', lease)
  call('HDEL', P .. ':fences', lease)
end
return 1
""",
    # until, then ids.
    "revoke": """
local until_ = tonumber(ARGV[2])
for i = 3, #ARGV do call('ZADD', P .. ':revoked', until_, ARGV[i]) end
local last = call('ZRANGE', P .. ':revoked', -1, -1, 'WITHSCORES')[2]
call('EXPIREAT', P .. ':revoked', string.format('%.0f', math.ceil(tonumber(last)) + 1))
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T, at = tag(queue), places()
  for i = 3, #ARGV do
    if call('ZREM', T .. 'due', ARGV[i]) == 1 then
      local blob = call('HGET', T .. 'messages', ARGV[i])
      if blob then place(at, ARGV[i], blob, '', 0) end
    end
  end
  put(T, at, 'LPUSH')
end
return 1
""",
    # now. Returns flat, for each queue: name, ready, scheduled, active, dead, 1 if it is paused.
    "queues": """
local time, rows, leases = instant(ARGV[2]), {}, call('ZRANGE', P .. ':leases', 0, -1)
for _, queue in ipairs(call('SUNION', P .. ':queues', P .. ':paused')) do
  local T = tag(queue)
  wake(T, time)
  local waiting, active = 0, 0
  for _, lane in ipairs({'p', 'c'}) do
    for priority = 0, 9 do waiting = waiting + call('LLEN', T .. 'ready:' .. lane .. priority) end
  end
  for _, lease in ipairs(leases) do active = active + call('HLEN', T .. 'held:' .. lease) end
  local due = call('ZCARD', T .. 'due')
  local late = call('ZCOUNT', T .. 'due', '-inf', time)
  for _, part in ipairs({queue, waiting + late, due - late, active, call('ZCARD', T .. 'dead'),
                         call('SISMEMBER', P .. ':paused', queue)}) do table.insert(rows, part) end
end
return rows
""",
    # queue, now, offset, limit. Returns blobs.
    "peek": """
local T, offset, left, blobs = tag(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), {}
wake(T, instant(ARGV[3]))
for priority = 9, 0, -1 do
  for _, lane in ipairs({'p', 'c'}) do
    local line = T .. 'ready:' .. lane .. priority
    local length = call('LLEN', line)
    if length <= offset then
      offset = offset - length
    elseif left > 0 then
      for _, id in ipairs(call('LRANGE', line, offset, offset + left - 1)) do
        table.insert(blobs, call('HGET', T .. 'messages', id))
        left = left - 1
      end
      offset = 0
    end
  end
end
return blobs
""",
    # now, ids. Returns flat: place, blob.
    "find": """
local time, found, leases = instant(ARGV[2]), {}, call('ZRANGE', P .. ':leases', 0, -1)
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  for i = 3, #ARGV do
    local id = ARGV[i]
    local blob = call('HGET', T .. 'messages', id)
    if blob then
      local where, due = 'ready', call('ZSCORE', T .. 'due', id)
      if due then
        if tonumber(due) > time then where = 'scheduled' end
      elseif call('ZSCORE', T .. 'dead', id) then
        where = 'dead'
      else
        for _, lease in ipairs(leases) do
          if call('HEXISTS', T .. 'held:' .. lease, id) == 1 then where = 'active' end
        end
      end
      table.insert(found, where)
      table.insert(found, blob)
    end
  end
end
return found
""",
    # queue. Drops up to a thousand of each line, and a thousand that are scheduled; returns how many: call it again.
    "purge": """
local T, dropped = tag(ARGV[2]), 0
local function drop(ids)
  if #ids == 0 then return end
  dropped = dropped + call('HDEL', T .. 'messages', unpack(ids))
  call('HDEL', T .. 'counts', unpack(ids))
end
for priority = 0, 9 do
  for _, lane in ipairs({'p', 'c'}) do drop(call('LPOP', T .. 'ready:' .. lane .. priority, 1000) or {}) end
end
local ids = call('ZRANGE', T .. 'due', 0, 999)
if #ids > 0 then call('ZREM', T .. 'due', unpack(ids)) end
drop(ids)
return dropped
""",
    # queue. Ends a pause, and wakes those who wait.
    "resume": """
call('SREM', P .. ':paused', ARGV[2])
for _, lane in ipairs({'p', 'c'}) do ring(tag(ARGV[2]), lane) end
return 1
""",
    # ids. Returns the blobs of those that are dead letters.
    "letters": """
local blobs = {}
for _, queue in ipairs(call('SMEMBERS', P .. ':queues')) do
  local T = tag(queue)
  for i = 2, #ARGV do
    if call('ZSCORE', T .. 'dead', ARGV[i]) then table.insert(blobs, call('HGET', T .. 'messages', ARGV[i])) end
  end
end
return blobs
""",
    # queue, 1 to send again or 0 to drop, then id and blob of each. Returns how many were dead letters.
    "bring_out": """
local T, at, count = tag(ARGV[2]), places(), 0
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  if call('ZREM', T .. 'dead', id) == 1 then
    count = count + 1
    call('HDEL', T .. 'reasons', id)
    if ARGV[3] == '1' then
      call('HSET', T .. 'messages', id, ARGV[i + 1])
      call('DEL', P .. ':outcome:' .. id)
      place(at, id, ARGV[i + 1], '', 0)
    else
      call('HDEL', T .. 'messages', id)
    end
  end
end
put(T, at, 'RPUSH')
return count
""",
}



def _needed(body: str) -> str:
    """Return those paragraphs of `COMMON` that a script uses: each call of a script makes its functions anew."""
    needed: list[str] = []
    text = body
    for paragraph in reversed(COMMON.strip().split("\n\n")):  # a function uses those above it alone
        names = re.findall(r"^local (?:function )?(\w+)", paragraph, re.MULTILINE)
        if any(re.search(rf"\b{name}\b", text) for name in names):
            needed.insert(0, paragraph)
            text += paragraph
    return "\n".join(needed)


SCRIPTS: Final = {name: Script(name, body) for name, body in BODIES.items()}
