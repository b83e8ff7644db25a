-- now, lease, base receipt, most deliveries, limit, until when other leases may be found to have expired, how many
-- messages of a dead worker are named, then ranges of receipts (above, up to) of earlier sweeps whose reply was lost.
-- Returns messages held by expired leases to their queues, or takes them over if they must not be run again; deletes
-- expired leases that hold nothing. If it is later than that, other leases are left alone: this one has expired, too, so
-- that the server was probably away, and no worker could renew; or the server's clock was set forward.
-- Returns 0 if this lease is lost, -1 if it refuses this request because of a fence, else {1 if there is more to do; for each dead worker whose messages have returned
-- {its info, their number, the blobs of those that are named}; then for each message taken over, flat: blob, -receipt,
-- deliveries, queue}.
local time, lease, base = instant(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local most, limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local fence = call('HGET', P .. ':fences', lease)
if not fence then return 0 end
if tonumber(fence) > base then return -1 end
begin_writing()
local queues, taken_over, left, more = call('SMEMBERS', P .. ':queues'), {}, limit, 0
local returned = {}
for d = 9, #ARGV, 2 do
  for _, queue in ipairs(queues) do
    local T = tag(queue)
    local all = call('HGETALL', T .. 'held:' .. lease)
    for i = 1, #all, 2 do
      local receipt, deliveries = proof(all[i + 1])
      if -receipt > tonumber(ARGV[d]) and -receipt <= tonumber(ARGV[d + 1]) then
        local blob = call('HGET', T .. 'messages', all[i])
        for _, part in ipairs({blob, -receipt, deliveries, queue}) do table.insert(taken_over, part) end
      end
    end
  end
  call('HSET', P .. ':fences', lease, base)
end
local before = string.format('(%.17g', time)
local current = tonumber(ARGV[7]) >= time
for _, other in ipairs(current and call('ZRANGE', P .. ':leases', '-inf', before, 'BYSCORE', 'LIMIT', 0, 10) or {}) do
  if other ~= lease then
    local left_behind = {call('HGET', P .. ':workers', other) or '', 0}
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
          left_behind[2] = left_behind[2] + 1
          if #left_behind < 2 + tonumber(ARGV[8]) then table.insert(left_behind, blob) end
        elseif blob then
          base = base + 1
          table.insert(passed, id)
          table.insert(passed, string.format('-%.0f:%d', base, deliveries) .. TAIL)
          for _, part in ipairs({blob, base, deliveries, queue}) do table.insert(taken_over, part) end
        end
      end
      left = left - #all / 2
      if #gone > 0 then call('HDEL', key, unpack(gone)) end
      if #passed > 0 then many('HSET', T .. 'held:' .. lease, passed) end
      requeue(T, back)
    end
    if left_behind[2] > 0 then table.insert(returned, left_behind) end
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
  make_due_ready(T, time)
  -- A worker that was killed after it was woken has not woken the next one.
  for _, lane in ipairs({'p', 'c'}) do
    if call('EXISTS', T .. 'waiters:' .. lane) == 1 and has_ready(T, lane)
        and call('SISMEMBER', P .. ':paused', queue) == 0 then ring(T, lane) end
  end
end
table.insert(taken_over, 1, more)
table.insert(taken_over, 2, returned)
return taken_over
