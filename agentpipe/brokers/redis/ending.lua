-- How tasks end and come back: what the scripts share that do either.

-- End tasks with their results; `ended` holds {id, task, result, outcome}.
local function put_in_outbox(ended, time)
  if #ended == 0 then
    return
  end
  local number, bytes, outcomes = numbers(#ended), 0, {}
  for _, each in ipairs(ended) do
    local id, task, result, outcome = each[1], each[2], each[3], each[4]
    local label = string.format('%.0f', number)
    later('HDEL', TASKS, id)
    later('HDEL', PAYLOADS, id)
    later('ZREM', ORDER, id)
    later('ZADD', SETTLED, time, id)
    later('HSET', RESULTS, label, result)
    later('ZADD', OUTBOX, number, label .. ' ' .. #result .. ' ' .. id)
    bytes, number = bytes + #result, number + 1
    outcomes[outcome] = (outcomes[outcome] or 0) + 1
  end
  call('HINCRBY', STORE, 'outbox_bytes', bytes)
  for outcome, times in pairs(outcomes) do
    call('HINCRBY', STORE, 'outcome:' .. outcome, times)
  end
end

-- Workers.

local function put_back_held(name, crashed)
  local ids = call('HKEYS', base .. ':held:' .. name)
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    if record then
      local task = task_of(record)
      local queue = queue_of(task.queue)
      if crashed then
        task.crashes = task.crashes + 1
        task.last = task.crashes + 1 == queue.max_crashes and '1' or '0'
        later('HSET', TASKS, ids[index], record_of(task))
      end
      count(queue, 'running', -1)
      put_back(ids[index], task)
    end
  end
  return #ids
end

local function leave_fleet(name, serves)
  call('SREM', base .. ':fleet:' .. serves, name)
  if call('EXISTS', base .. ':fleet:' .. serves) == 0 then
    call('DEL', base .. ':serves:' .. serves)
  end
end

local function end_worker(name, crashed)
  local held = put_back_held(name, crashed)
  for _, entry in ipairs(call('HVALS', base .. ':lent:' .. name)) do
    later('ZADD', OUTBOX, entry:match('^%d+'), entry)
  end
  local serves = call('HGET', base .. ':worker:' .. name, 'serves')
  if serves then
    leave_fleet(name, serves)
  end
  call('DEL', base .. ':worker:' .. name, base .. ':held:' .. name, base .. ':lent:' .. name)
  call('ZREM', WORKERS, name)
  return held
end

-- Whether any worker's lease was over; what it held is put back.
local function end_lapsed(time)
  local lapsed = call('ZRANGEBYSCORE', WORKERS, '-inf', time, 'LIMIT', 0, 10)
  if #lapsed == 0 then
    return false
  end
  for _, name in ipairs(lapsed) do
    end_worker(name, true)
  end
  save_queues()
  flush()
  return true
end
