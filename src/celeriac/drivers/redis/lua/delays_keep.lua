-- now, then for each message: id, queue, due ('+' and seconds: from now), 1 if it may have been kept before (else 0), 1 if
-- it replaces one of its id (else 0), data. Keeps them; one whose id is kept and was not taken only if it replaces that.
local time, D = instant(ARGV[2]), P .. ':delays'
for i = 3, #ARGV, 6 do
  local id, queue, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = call('HGET', D .. ':about', id)
  if not known or ARGV[i + 4] == '1' or not string.match(known, '^0 ') then
    if string.byte(due) == 43 then due = string.format('%.6f', time + tonumber(string.sub(due, 2))) end
    if known then forget_delayed(id, known) end
    call('HSET', D .. ':about', id, '0 ' .. ARGV[i + 3] .. ' ' .. queue)
    call('HSET', D .. ':data', id, ARGV[i + 5])
    call('ZADD', D, due, id)
    call('ZADD', D .. ':of:' .. queue, due, id)
    call('SADD', D .. ':queues', queue)
  end
end
