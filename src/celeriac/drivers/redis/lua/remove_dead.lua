-- queue, 1 to send again or 0 to drop, then id and blob of each message. Returns how many were dead letters.
local T, at, count = tag(ARGV[2]), batch(), 0
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  if call('ZREM', T .. 'dead', id) == 1 then
    count = count + 1
    call('HDEL', T .. 'reasons', id)
    if ARGV[3] == '1' then
      call('HSET', T .. 'messages', id, ARGV[i + 1])
      call('DEL', P .. ':outcome:' .. id)
      add(at, id, ARGV[i + 1], '', 0)
    else
      call('HDEL', T .. 'messages', id)
    end
  end
end
put(T, at, 'RPUSH')
return count
