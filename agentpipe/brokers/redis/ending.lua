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

  -- `begun` has the tasks that count a crash; nil for all that the worker held.
  local function put_back_held(name, begun)
    local ids = call('HKEYS', base .. ':held:' .. name)
    local is_begun = {}
    for _, id in ipairs(begun or ids) do
      is_begun[id] = true
    end
    local count_begun = #(begun or ids) > 1 and count_shared_crash or endings.count_crash
    for index, record in ipairs(read_records(ids)) do
      if record then
        local task = task_of(record)
        if is_begun[ids[index]] then
          count_begun(ids[index], task)
        end
        count(task.queue, N_RUNNING, -1)
        put_back(ids[index], task)
      end
    end
    return #ids
  end

  function endings.leave_fleet(name, serves)
    call('SREM', base .. ':fleet:' .. serves, name)
    call('ZREM', idle_index(serves), name)
    if call('EXISTS', base .. ':fleet:' .. serves) == 0 then
      call('DEL', base .. ':serves:' .. serves)
      call('SREM', IDLE, serves)
    end
  end

  function endings.end_worker(name, begun)
    local held = put_back_held(name, begun)
    for _, entry in ipairs(call('HVALS', base .. ':lent:' .. name)) do
      later('ZADD', OUTBOX, entry:match('^%d+'), entry)
    end
    local serves = call('HGET', base .. ':worker:' .. name, 'serves')
    if serves then
      endings.leave_fleet(name, serves)
    end
    call('DEL', base .. ':worker:' .. name, base .. ':held:' .. name, base .. ':lent:' .. name)
    call('ZREM', WORKERS, name)
    return held
  end

  return endings
end)

-- End workers whose lease expired, and requeue their tasks. After a worker that held many, the next
-- call ends the others.
local function end_lapsed(time)
  local lapsed, held = call('ZRANGEBYSCORE', WORKERS, '-inf', time, 'LIMIT', 0, 10), 0
  if #lapsed == 0 then
    return
  end
  for _, name in ipairs(lapsed) do
    if held < PORTION then
      held = held + endings.end_worker(name)
    end
  end
  save_queues()
end
