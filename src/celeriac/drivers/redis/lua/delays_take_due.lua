-- now, seconds to hold them, token, limit. Takes messages that are due and not held, the soonest first. Returns {in how many
-- seconds the next of the others is due ('' if none is), flat for each: id, queue, due, 1 if it was taken before, data}.
local time, D = instant(ARGV[2]), P .. ':delays'
begin_writing()
local found = {}
take_delayed_from(D, string.format('%.6f', time), time, ARGV[3], ARGV[4], tonumber(ARGV[5]), found)
local others = call('ZRANGEBYSCORE', D, '(' .. string.format('%.6f', time), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local soonest = others[2] and string.format('%.6f', others[2] - time) or ''
return {soonest, found}
