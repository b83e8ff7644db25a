-- Say whether a lease may be handed out messages with receipts after `base`: nil where it is lost, false where a
-- `recover` has overtaken the request.
local function may_hand_out(lease, base)
  local fence = call('HGET', P .. ':fences', lease)
  if fence then return tonumber(fence) <= tonumber(base) end
end

-- A request for messages stands in ARGV from `first` to `last`: base receipt, waits (1: it waited, and may be rung; 2: it
-- did not, but is to wait for what it has slots left for; 3: both; 0: neither), n, then n pairs lane, slots, then queues.
local function hush(first, last)
  local n = tonumber(ARGV[first + 2])
  for q = first + 3 + 2 * n, last do
    for i = first + 3, first + 2 + 2 * n, 2 do hushed[tag(ARGV[q]) .. ARGV[i]] = true end
  end
end

-- Do what a request asks for. Return {blobs, exceptions, seconds to the next due time or ''}. The receipts are base + 1,
-- base + 2 …; exceptions are flat: index of the blob, deliveries, 1 if it is revoked.
local function hand_out(lease, time, first, last)
  hush(first, last)
  local base, waits, n = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  local free, lanes = {}, {}
  for i = first + 3, first + 2 + 2 * n, 2 do
    table.insert(lanes, ARGV[i])
    free[ARGV[i]] = tonumber(ARGV[i + 1])
  end
  local keys = {P .. ':revoked', P .. ':paused'}
  for q = first + 3 + 2 * n, last do table.insert(keys, tag(ARGV[q]) .. 'counts') end
  local rare = call('EXISTS', unpack(keys)) > 0  -- else none of them is there, and that takes one look for all
  local revocations = rare and call('EXISTS', P .. ':revoked') == 1
  local pauses = rare and call('EXISTS', P .. ':paused') == 1
  local blobs, total, exceptions, soonest, paused, first_due = {}, 0, {}, nil, {}, {}
  local ONCE = ':1' .. TAIL
  for q = first + 3 + 2 * n, last do
    local T = tag(ARGV[q])
    paused[q] = pauses and call('SISMEMBER', P .. ':paused', ARGV[q]) == 1
    if not paused[q] then
      first_due[q] = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
      if first_due[q] and tonumber(first_due[q]) <= time then
        wake(T, time)
        first_due[q] = call('ZRANGE', T .. 'due', 0, 0, 'WITHSCORES')[2]
      end
      for _, lane in ipairs(lanes) do
        local r = T .. 'ready:' .. lane
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
                for _, part in ipairs({total - 1, deliveries, bad and 1 or 0}) do table.insert(exceptions, part) end
              end
            end
          end
          free[lane] = free[lane] - (total - before)
          if h > 0 then many('HSET', T .. 'held:' .. lease, held) end
        end
      end
    end
  end
  if #blobs == 0 and waits >= 2 then relieve() end
  hushed = {}
  for q = first + 3 + 2 * n, last do
    local T = tag(ARGV[q])
    local due = first_due[q]
    if due and (not soonest or tonumber(due) < soonest) then soonest = tonumber(due) end
    for _, lane in ipairs(lanes) do
      if waits >= 2 and free[lane] > 0 then
        call('SADD', T .. 'waiters:' .. lane, lease)
      else
        if waits % 2 == 1 then call('SREM', T .. 'waiters:' .. lane, lease) end
        -- What is left here, others may start: one is woken, and will wake the next.
        if call('EXISTS', T .. 'waiters:' .. lane) == 1
            and not paused[q] and (stands(T, lane) or (waits % 2 == 1 and due)) then ring(T, lane) end
      end
    end
  end
  return {blobs, exceptions, soonest and string.format('%.6f', soonest - time) or ''}
end
