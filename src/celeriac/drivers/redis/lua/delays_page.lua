-- now, 1 for messages that are due (0 for the others), limit, offset, queue if one is meant. Returns flat for each message,
-- the soonest first: id, queue, due, 1 if it was taken before, data.
local time, D, found = string.format('%.6f', instant(ARGV[2])), P .. ':delays', {}
local first, last = '-inf', time
if ARGV[3] == '0' then first, last = '(' .. time, '+inf' end
local key = ARGV[6] and D .. ':of:' .. ARGV[6] or D
local rows = call('ZRANGEBYSCORE', key, first, last, 'WITHSCORES', 'LIMIT', ARGV[5], ARGV[4])
for i = 1, #rows, 2 do
  local known = call('HGET', D .. ':about', rows[i])
  local token, again, queue = string.match(known or '', '^(%d+) (%d) (.*)$')
  if token then
    table.insert(found, rows[i])
    table.insert(found, queue)
    table.insert(found, rows[i + 1])
    table.insert(found, token == '0' and again or '1')
    table.insert(found, call('HGET', D .. ':data', rows[i]) or '')
  end
end
return found
