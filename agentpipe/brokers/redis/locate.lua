#!lua flags=no-writes
-- needs: budgets policies
-- ARGV: id. Returns JSON: where the task is, and what can explain it, except the running tasks beside
-- it (see `runs_beside`). Times are strings, because Lua encodes JSON numbers with too few digits.

local id = ARGV[1]
local seen = look()
local time = seen.time
local location = {place = 'unknown', workers = {}}
local record = call('HGET', TASKS, id)
local settled_at = call('ZSCORE', SETTLED, id)

-- The task's own claim.
local function own_run(queue)
  for _, worker in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
    local held_as = call('HGET', base .. ':held:' .. worker, id)
    if held_as then
      return {task_id = id, queue = queue, worker = worker,
        since = as_wall(held_as:match(' (.*)$'), seen)}
    end
  end
end

local function tell_workers()
  local living = call('ZRANGEBYSCORE', WORKERS, '(' .. time, '+inf', 'WITHSCORES')
  for index = 1, #living, 2 do
    local name = living[index]
    local found = call('HMGET', base .. ':worker:' .. name, 'host', 'pid', 'slots', 'lease',
      'serves', 'report')
    local serves = location.agent and found[5]
      and call('SISMEMBER', base .. ':serves:' .. found[5], location.agent.queue) == 1
    table.insert(location.workers, {
      name = name, host = found[1], pid = tonumber(found[2]), slots = tonumber(found[3]),
      running = call('HLEN', base .. ':held:' .. name), serves = serves or false,
      seen_s = math.max(0, time - (tonumber(living[index + 1]) - tonumber(found[4]))),
      report = found[6] or '',
    })
  end
end

local function spending_of(kind, holder)
  local budget = budgets.read(kind .. ' ' .. holder)
  return budget and budgets.tell(kind .. ' ' .. holder, budget) or nil
end

local function tell_agent(name)
  read_queues({name})
  local queue = queues[name]
  if not queue then
    return
  end
  local gate = queue[GATE]
  location.agent = {
    queue = name, collection = queue[COLLECTION], concurrency = queue[CONCURRENCY],
    waiting = queue[N_WAITING], cooldown_s = math.max(0, queue[HELD_UNTIL] - time),
    paused = call('SISMEMBER', PAUSES, 'queue ' .. name) == 1,
    pause_reason = pauses.reason_of(name, queue[COLLECTION]),
    collection_paused = call('SISMEMBER', PAUSES, 'collection ' .. queue[COLLECTION]) == 1,
    gate = gate, running = queue[N_RUNNING],
    group_running = tonumber(gate ~= '' and call('HGET', GATES, 'running ' .. gate) or 0),
    group_limit = gate ~= '' and tonumber(call('HGET', GATES, 'limit ' .. gate) or 0) or nil,
    run_s = queue[RUN_S] > 0 and queue[RUN_S] or nil,
    spending = spending_of('collection', queue[COLLECTION]),
  }
end

-- How many tasks of a sorted set are claimed before the task, by binary search.
local function count_before(index, task)
  local low, high, member = 0, call('ZCARD', index), task.seq .. id
  local priority = tonumber(task.priority)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = call('ZRANGE', index, middle, middle, 'WITHSCORES')
    local its = tonumber(found[2])
    if its < priority or (its == priority and found[1] < member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function tell_position(task)
  local due_at = call('ZSCORE', DELAYED, id)
  if due_at then
    location.place = 'delayed'
    location.due_at = tonumber(due_at) < PARKED_BY_POLICY and as_wall(due_at, seen) or nil
    if tonumber(due_at) == PARKED_BY_POLICY then
      local follows = call('HGET', FOLLOWERS, queues[task.queue] and queues[task.queue][COLLECTION] or '')
      location.policy = follows and policies.tell({follows})
    end
  elseif call('ZSCORE', place_of(task), task.seq .. id) then
    location.place = 'waiting'
    location.position = 1 + count_before(base .. ':waiting:' .. task.queue, task)
      + count_before(base .. ':last:' .. task.queue, task)
  else
    location.place, location.run = 'running', own_run(task.queue)
    local follows = call('HGET', FOLLOWERS, queues[task.queue] and queues[task.queue][COLLECTION] or '')
    if follows and call('HGET', policies.key(follows), 'paused') == '1' then
      location.held_by = follows
    end
  end
end

local function place_of_member(member)
  if call('ZSCORE', DELAYED, member) then
    return 'delayed'
  end
  local task = task_of(call('HGET', TASKS, member))
  return call('ZSCORE', place_of(task), task.seq .. member) and 'waiting' or 'running'
end

-- Describe the open group with this id, or the one that this task is an open member of.
local function tell_group()
  local name = call('HGET', MEMBERS, id) or id
  local found = call('HMGET', base .. ':group:' .. name, 'need', 'repairs', 'good', 'size')
  if not found[1] then
    return
  end
  local places = {}
  for number = 1, tonumber(found[4]) do
    local member = call('HGET', base .. ':group:' .. name, 'member ' .. number)
    if call('HGET', MEMBERS, member) == name and call('HEXISTS', TASKS, member) == 1 then
      places[#places + 1] = {member, place_of_member(member)}
    end
  end
  location.group = {name, tonumber(found[1]), tonumber(found[2]), tonumber(found[3]),
    tonumber(found[4]), places}
end

local function place_among(entries)
  for index, entry in ipairs(entries) do
    if entry:match('^%d+ %d+ (.*)$') == id then
      return index - 1
    end
  end
end

-- Records leased to workers come before all others.
local function tell_outbox_before()
  local lent = 0
  for _, worker in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
    local theirs = call('HVALS', base .. ':lent:' .. worker)
    location.outbox_before = location.outbox_before or (place_among(theirs) and 0)
    lent = lent + #theirs
  end
  local from = 0
  while not location.outbox_before do
    local entries = call('ZRANGE', OUTBOX, from, from + CHUNK - 1)
    local mine = place_among(entries)
    location.outbox_before = mine and mine + from + lent
    from = from + CHUNK
    if #entries == 0 then
      return
    end
  end
end

local function tell_outbox()
  location.outbox = call('HLEN', RESULTS)
  location.outbox_bytes = tonumber(call('HGET', STORE, 'outbox_bytes') or 0)
  local first = call('ZRANGE', OUTBOX, 0, 0)[1]
  local since = first and call('ZSCORE', SETTLED, first:match('^%d+ %d+ (.*)$'))
  location.outbox_since = since and as_wall(since, seen) or nil
  if settled_at and location.outbox > 0 then
    tell_outbox_before()
  end
end

tell_outbox()
tell_group()
local dead = call('HMGET', base .. ':dead:' .. id, 'queue', 'outcome', 'reason')
if record then
  local task = task_of(record)
  tell_agent(task.queue)
  tell_position(task)
  location.spending = spending_of('run', id:match('^([^/]+)/') or '')
  location.submitted_at, location.failures, location.crashes = task.submitted, task.failures, task.crashes
  location.cancelled = call('HEXISTS', NOTES, 'cancel ' .. id) == 1
  location.error = call('HGET', NOTES, 'error ' .. id) or ''
elseif dead[1] then
  tell_agent(dead[1])
  location.place, location.outcome, location.error = 'dead', dead[2], dead[3]
  location.since = string.format('%.6f', call('ZSCORE', DEAD, id) / 1e6)
elseif settled_at then
  location.place, location.since = location.outbox_before and 'outbox' or 'settled', as_wall(settled_at, seen)
end
tell_workers()
return cjson.encode(location)
