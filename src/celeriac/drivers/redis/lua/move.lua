-- queue, queue that they go to, now, 1 if only scheduled ones are meant; then id, blob and new blob of each message. Moves
-- those that still wait as that blob: the others were taken, or sent again, meanwhile. Scheduled ones that go to their
-- own queue become ready. Returns how many were moved.
local T, to, time, only_scheduled = tag(ARGV[2]), tag(ARGV[3]), instant(ARGV[4]), ARGV[5] == '1'
local at, count = batch(), 0
for i = 6, #ARGV, 3 do
  local id, blob = ARGV[i], ARGV[i + 1]
  if call('HGET', T .. 'messages', id) == blob then
    local due, line = call('ZSCORE', T .. 'due', id), T .. 'ready:' .. string.sub(blob, 1, 2)
    if due and call('ZREM', T .. 'due', id) or not only_scheduled and call('LREM', line, 1, id) == 1 then
      count = count + 1
      if to ~= T then
        call('HDEL', T .. 'messages', id)
        call('HDEL', T .. 'counts', id)
      end
      call('HSET', to .. 'messages', id, ARGV[i + 2])
      add(at, id, ARGV[i + 2], not only_scheduled and due or '', time)
    end
  end
end
if count > 0 then
  call('SADD', P .. ':queues', ARGV[3])
  put(to, at, 'RPUSH')
end
return count
