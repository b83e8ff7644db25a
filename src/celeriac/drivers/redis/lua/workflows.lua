-- Milliseconds that an unfinished workflow is kept after its last change.
local UNFINISHED = 2592000000

-- Store a workflow; items from `first` to `last` are joins, and how many members of each have not ended.
local function plant(id, tree, left, items, first, last, ttl)
  local key = P .. ':workflow:' .. id
  call('DEL', key)
  call('HSET', key, 'tree', tree, 'left', left)
  for i = first, last, 2 do call('HSET', key, items[i], items[i + 1]) end
  if tonumber(left) > 0 then call('ZADD', P .. ':unfinished', 0, id) end
  if ttl ~= '' then call('PEXPIRE', key, tonumber(left) > 0 and math.max(UNFINISHED, ttl) or ttl) end
end

-- Count the ends of nodes. All arguments are by workflow: `left` is how many nodes have ended, `joins` how many members
-- of each join, `pending_of` which nodes are pending because of them. Nothing follows in a workflow that has expired.
local function count_down(left, joins, pending_of, ttl)
  for workflow, n in pairs(left) do
    local key, pending = P .. ':workflow:' .. workflow, pending_of[workflow] or {}
    if call('EXISTS', key) == 1 then
      local open = call('HINCRBY', key, 'left', 0 - n)  -- not -n: Redis does not accept -0 as a number
      for join, count in pairs(joins[workflow] or {}) do
        local missing = tonumber(call('HGET', key, join) or 0)
        if missing > 0 then
          call('HSET', key, join, math.max(0, missing - count))
          if missing <= count then table.insert(pending, join) end
        end
      end
      if open <= 0 then call('ZREM', P .. ':unfinished', workflow) end
      if ttl ~= '' then call('PEXPIRE', key, open > 0 and math.max(UNFINISHED, ttl) or ttl) end
      for _, node in ipairs(pending) do call('ZADD', P .. ':dues', 'NX', 0, workflow .. ':' .. node) end
    end
  end
end

-- Store the ends of nodes {id, value, channel, workflow, node, join or '', 1 if it leaves a pending node}, flat, and
-- count them. Return 1 or 0 for each, as `keep` does.
local function conclude(ends, ttl)
  local outcomes, o, left, joins, pending_of = {}, 0, {}, {}, {}
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
      if not joins[workflow] then joins[workflow], pending_of[workflow] = {}, {} end
      if join ~= '' then joins[workflow][join] = (joins[workflow][join] or 0) + 1 end
      if ends[i + 6] == '1' then table.insert(pending_of[workflow], ends[i + 4]) end
    end
  end
  count_down(left, joins, pending_of, ttl)
  return done
end

-- Deal with a pending node: workflow, node, n, m, n outcomes as `conclude` takes them, m joins, and then messages,
-- flat: queue, id, blob, due. Return 1, or 0 if it has been dealt with before.
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
