-- now, limit. Returns {now in milliseconds, when the next entry is due after these ('' if none is), then flat the names
-- and values of up to `limit` entries that are due}.
local time, limit = math.floor(instant(ARGV[2]) * 1000), tonumber(ARGV[3])
local rows = call('ZRANGE', P .. ':schedules:next', 0, limit, 'WITHSCORES')
local found, soonest = {}, ''
for i = 1, #rows, 2 do
  if tonumber(rows[i + 1]) > time or i > 2 * limit then
    soonest = rows[i + 1]
    break
  end
  local value = call('HGET', P .. ':schedules', rows[i])
  if value then
    table.insert(found, rows[i])
    table.insert(found, value)
  else
    call('ZREM', P .. ':schedules:next', rows[i])
  end
end
return {string.format('%.0f', time), soonest, unpack(found)}
