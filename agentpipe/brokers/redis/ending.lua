-- Shared by the scripts that end or requeue tasks.

-- How many tasks ended by outcome, with the names of the store's counters.
local function count_outcomes(ended)
  local outcomes, names = {}, {}
  for _, each in ipairs(ended) do
    local name = 'outcome:' .. each[3]
    if not outcomes[name] then
      names[#names + 1], outcomes[name] = name, 0
    end
    outcomes[name] = outcomes[name] + 1
  end
  return outcomes, names
end

-- End tasks with their results. Entries of `ended` begin with id, result, outcome; `groups` adds
-- more.
local function put_in_outbox(ended, settled_at, has_notes)
  if #ended == 0 then
    return
  end
  local outcomes, names = count_outcomes(ended)
  local stored = call('HMGET', STORE, 'next', 'outbox_bytes', unpack(names))
  local number, bytes = tonumber(stored[1]), tonumber(stored[2] or 0)
  for _, each in ipairs(ended) do
    local id, result = each[1], each[2]
    number, bytes = number + 1, bytes + #result
    local label = string.format('%d', number)
    later('HDEL', TASKS, id)
    later('HDEL', PAYLOADS, id)
    if has_notes then
      later('HDEL', NOTES, 'cancel ' .. id, 'error ' .. id)
      later('HDEL', NOTES, 'cooled ' .. id)
    end
    later('ZREM', ORDER, id)
    later('ZADD', SETTLED, settled_at, id)
    later('HSET', RESULTS, label, result)
    later('ZADD', OUTBOX, label, string.format('%s %d %s', label, #result, id))
  end
  local values = {'next', string.format('%d', number), 'outbox_bytes', string.format('%d', bytes)}
  for index, name in ipairs(names) do
    values[#values + 1] = name
    values[#values + 1] = string.format('%d', tonumber(stored[2 + index] or 0) + outcomes[name])
  end
  call('HSET', STORE, unpack(values))
end

local endings = on_demand(function()
  local endings = {}

  -- The time of a death in microseconds. It is unique per letter, so it also serves as a cursor.
  function endings.moment_of_death()
    local last = tonumber(call('HGET', STORE, 'last_death') or 0)
    local moment = string.format('%d', math.max(math.floor(wall() * 1e6 + 0.5), last + 1))
    call('HSET', STORE, 'last_death', moment)
    return moment
  end

  function endings.count_crash(id, task)
    task.crashes = task.crashes + 1
    task.last = task.crashes + 1 == queues[task.queue][MAX_CRASHES] and '1' or '0'
    later('HSET', TASKS, id, record_of(task))
  end

  -- A worker with several tasks died, and the guilty one is unknown. If a single crash ends a task,
  -- count none and make it a suspect.
  local function count_shared_crash(id, task)
    if queues[task.queue][MAX_CRASHES] > 1 then
      endings.count_crash(id, task)
    else
      task.last = '1'
      later('HSET', TASKS, id, record_of(task))
    end
  end

  local count_by = {sole = endings.count_crash, shared = count_shared_crash}

  -- Requeue claims of a worker. For `ends` see `endings.begin`.
  function endings.requeue(name, ids, ends)
    local held, count_crash = base .. ':held:' .. name, count_by[ends]
    for index, record in ipairs(read_records(ids)) do
      local id = ids[index]
      later('HDEL', held, id)
      if record then
        local task = task_of(record)
        if task.last == '1' then
          call('HDEL', base .. ':worker:' .. name, 'last', 'alone')
        end
        if count_crash then
          count_crash(id, task)
        end
        count(task.queue, N_RUNNING, -1)
        put_back(id, task)
      end
    end
  end

  function endings.leave_fleet(name, serves)
    call('SREM', base .. ':fleet:' .. serves, name)
    call('ZREM', idle_index(serves), name)
    if call('EXISTS', base .. ':fleet:' .. serves) == 0 then
      call('DEL', base .. ':serves:' .. serves)
      call('SREM', IDLE, serves)
    end
  end

  -- From now on the worker is unknown, except that its claims are requeued, part by part: a worker
  -- that serves nothing ends. `ends` is how they count a crash: 'sole', 'shared' or 'none'.
  function endings.begin(name, ends)
    local key = base .. ':worker:' .. name
    local serves = call('HGET', key, 'serves')
    if serves then
      endings.leave_fleet(name, serves)
      call('HDEL', key, 'serves')
    end
    call('HSET', key, 'ends', ends)
  end

  local function remove(name)
    for _, entry in ipairs(call('HVALS', base .. ':lent:' .. name)) do
      later('ZADD', OUTBOX, entry:match('^%d+'), entry)
    end
    call('DEL', base .. ':worker:' .. name, base .. ':held:' .. name, base .. ':lent:' .. name)
    call('ZREM', WORKERS, name)
  end

  -- Requeue a part of the claims of a worker that ends; remove it after the last one. Returns how
  -- many, and whether there are more.
  function endings.go_on(name)
    local ids = call('HRANDFIELD', base .. ':held:' .. name, PORTION)
    endings.requeue(name, ids, call('HGET', base .. ':worker:' .. name, 'ends'))
    if #ids < PORTION then
      remove(name)
    end
    return #ids, #ids == PORTION
  end

  -- The lease of this worker expired. Returns how many claims were requeued.
  function endings.end_lapsed(name)
    if call('HEXISTS', base .. ':worker:' .. name, 'ends') == 0 then
      endings.begin(name, call('HLEN', base .. ':held:' .. name) > 1 and 'shared' or 'sole')
    end
    return (endings.go_on(name))
  end

  return endings
end)

-- End workers whose lease expired, and requeue their tasks. If they held many, the next calls go on.
local function end_lapsed(time)
  local lapsed, held = call('ZRANGEBYSCORE', WORKERS, '-inf', time, 'LIMIT', 0, 10), 0
  if #lapsed == 0 then
    return
  end
  for _, name in ipairs(lapsed) do
    if held < PORTION then
      held = held + endings.end_lapsed(name)
    end
  end
  save_queues()
end
