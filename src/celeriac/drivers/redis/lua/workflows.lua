-- Note that nodes of workflows have ended: `left` is how many by workflow, `joins` how often each join is to be counted
-- down by workflow, `dues` what is due besides, by workflow. Nothing follows in a workflow that has expired.
local UNFINISHED = 2592000000
local function count_down(left, joins, dues, ttl)
  for workflow, n in pairs(left) do
    local key, due = P .. ':workflow:' .. workflow, dues[workflow] or {}
    if call('EXISTS', key) == 1 then
      local open = call('HINCRBY', key, 'left', 0 - n)  -- a number -0 is none to Redis
      for join, count in pairs(joins[workflow] or {}) do
        local missing = tonumber(call('HGET', key, join) or 0)
        if missing > 0 then
          call('HSET', key, join, math.max(0, missing - count))
          if missing <= count then table.insert(due, join) end
        end
      end
      if ttl ~= '' then call('PEXPIRE', key, open > 0 and math.max(UNFINISHED, ttl) or ttl) end
      for _, node in ipairs(due) do call('ZADD', P .. ':dues', 'NX', 0, workflow .. ':' .. node) end
    end
  end
end

-- Store the ends of nodes {id, value, channel, workflow, node, join or '', 1 if more is due}, flat, and do what follows
-- at once. Return 1 or 0 for each, as `keep` does.
local function conclude(ends, ttl)
  local outcomes, o, left, joins, dues = {}, 0, {}, {}, {}
  for i = 1, #ends, 7 do
    outcomes[o + 1], outcomes[o + 2], outcomes[o + 3] = ends[i], ends[i + 1], ends[i + 2]
    o = o + 3
  end
  local done = keep(outcomes, ttl)
  for n, new in ipairs(done) do
    if new == 1 then
      local i = 7 * n - 6
      local workflow, join = ends[i + 3], ends[i + 5]
      left[workflow] = (left[workflow] or 0) + 1
      if not joins[workflow] then joins[workflow], dues[workflow] = {}, {} end
      if join ~= '' then joins[workflow][join] = (joins[workflow][join] or 0) + 1 end
      if ends[i + 6] == '1' then table.insert(dues[workflow], ends[i + 4]) end
    end
  end
  count_down(left, joins, dues, ttl)
  return done
end

-- Do what follows from a node's end: workflow, node, n, m, n outcomes as `conclude` has them, m joins, and then, flat,
-- messages: queue, id, blob, due. Return 1, or 0 where it has been done.
local function advance(items, at, ttl, time)
  local workflow, node, n, m = items[at], items[at + 1], tonumber(items[at + 2]), tonumber(items[at + 3])
  if call('ZREM', P .. ':dues', workflow .. ':' .. node) == 0 then return 0 end
  at = at + 4
  local own, others, ended, joins = {}, {}, 0, {}
  for i = at, at + 7 * n - 1, 7 do
    if items[i + 3] == workflow then
      for j = i, i + 2 do table.insert(own, items[j]) end
    else
      for j = i, i + 6 do table.insert(others, items[j]) end
    end
  end
  for _, new in ipairs(keep(own, ttl)) do ended = ended + new end
  at = at + 7 * n
  for i = at, at + m - 1 do joins[items[i]] = (joins[items[i]] or 0) + 1 end
  count_down({[workflow] = ended}, {[workflow] = joins}, {}, ttl)
  if #others > 0 then conclude(others, ttl) end
  for i = at + m, #items, 4 do publish(items[i], items, i + 1, i + 3, time) end
  return 1
end
