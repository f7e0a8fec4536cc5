-- What the scripts share. KEYS[1] is the {prefix} with which each key of the set begins: one hash
-- tag, so that all of them lie in one slot of a cluster.

local base = KEYS[1]
local call = redis.call

local STORE = base .. ':store'
local QUEUES = base .. ':queues'
local READY = base .. ':ready'
local DELAYED = base .. ':delayed'
local TASKS = base .. ':tasks'
local PAYLOADS = base .. ':payloads'
local ORDER = base .. ':order'
local SETTLED = base .. ':settled'
local RESULTS = base .. ':results'
local OUTBOX = base .. ':outbox'
local WORKERS = base .. ':workers'
local DEAD = base .. ':dead'
local RUNG = base .. ':rung'
local WAKE = base .. ':wake'

local CHUNK = 4000 -- Lua's stack takes not many more arguments at once.
local PORTION = 500 -- So many tasks are moved on the side by one call.

local function now()
  local time = call('TIME')
  return time[1] + time[2] / 1e6
end

-- The first of `count` numbers that were never given before: one counter serves all.
local function numbers(count)
  return call('HINCRBY', STORE, 'next', count) - count + 1
end

-- Writes are gathered, and done many to a command.

local writes = {}

local function flush_one(command, key, values)
  for first = 1, #values, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function flush()
  for command, keys in pairs(writes) do
    for key, values in pairs(keys) do
      flush_one(command, key, values)
    end
  end
  writes = {}
end

local function later(command, key, first, second)
  local keys = writes[command]
  if not keys then
    keys = {}
    writes[command] = keys
  end
  local values = keys[key]
  if not values then
    values = {}
    keys[key] = values
  end
  values[#values + 1] = first
  if second then
    values[#values + 1] = second
  end
end

local function read_many(command, key, names)
  local found = {}
  for first = 1, #names, CHUNK do
    local last = math.min(first + CHUNK - 1, #names)
    for index, value in ipairs(call(command, key, unpack(names, first, last))) do
      found[first + index - 1] = value
    end
  end
  return found
end

-- Requests. A client numbers what it asks in a session; a repetition, after a lost reply, gets the
-- answer that was given, and one that was overtaken by a later request is not carried out.

local session = base .. ':replies:' .. (ARGV[1] or '')

local function answered()
  local last = call('GET', session)
  if not last then
    return nil
  end
  local number, reply = last:match('^(%d+) (.*)$')
  if tonumber(number) < tonumber(ARGV[2]) then
    return nil
  end
  return number == ARGV[2] and reply or 'overtaken'
end

local function remember(reply)
  call('SET', session, ARGV[2] .. ' ' .. reply, 'EX', ARGV[3])
  return reply
end

-- Queues are read once and written once by a script.

local queues = {}

local function is_ready(queue)
  return queue.waiting > 0 and queue.running < queue.concurrency
end

local function has_room(queue)
  return queue.position ~= '' and queue.waiting < queue.limit
end

local function queue_of(name)
  local queue = queues[name]
  if queue == nil then
    local found = call('HMGET', base .. ':queue:' .. name, 'limit', 'concurrency', 'max_crashes',
      'position', 'collection', 'waiting', 'delayed', 'running', 'turn')
    if found[1] then
      queue = {
        name = name, limit = tonumber(found[1]), concurrency = tonumber(found[2]),
        max_crashes = tonumber(found[3]), position = found[4], collection = found[5],
        waiting = tonumber(found[6]), delayed = tonumber(found[7]),
        running = tonumber(found[8]), turn = tonumber(found[9]),
      }
      queue.was_ready, queue.had_room = is_ready(queue), has_room(queue)
    else
      queue = false
    end
    queues[name] = queue
  end
  return queue
end

local function count(queue, state, change)
  queue[state] = queue[state] + change
  queue.changed = true
end

-- Write what changed, and keep the two indexes: queues with work, by turn, and with room.
local function save_queues()
  for name, queue in pairs(queues) do
    if queue and queue.changed then
      call('HSET', base .. ':queue:' .. name, 'waiting', queue.waiting, 'delayed', queue.delayed,
        'running', queue.running, 'turn', queue.turn)
      if is_ready(queue) then
        if not queue.was_ready or queue.turned then
          call('ZADD', READY, queue.turn, name)
        end
      elseif queue.was_ready then
        call('ZREM', READY, name)
      end
      if has_room(queue) ~= queue.had_room then
        local room = base .. ':room:' .. queue.collection
        if queue.had_room then
          call('ZREM', room, name)
        else
          call('ZADD', room, queue.position, name)
        end
      end
      queue.was_ready, queue.had_room = is_ready(queue), has_room(queue)
      queue.changed, queue.turned = false, false
    end
  end
end

-- Wake who waits for work, once until somebody claims.
local function ring()
  if call('SET', RUNG, '1', 'NX') then
    call('PUBLISH', WAKE, '')
  end
end

-- Tasks. Their record: number, priority, failures, crashes, last chance (0 or 1), when they were
-- submitted, and last their queue, which may hold blanks.

local function record_of(task)
  return string.format('%s %s %d %d %s %s %s', task.seq, task.priority, task.failures,
    task.crashes, task.last, task.submitted, task.queue)
end

local function task_of(record)
  local seq, priority, failures, crashes, last, submitted, queue =
    record:match('^(%d+) (%S+) (%d+) (%d+) (%d) (%S+) (.*)$')
  return {
    seq = seq, priority = priority, failures = tonumber(failures), crashes = tonumber(crashes),
    last = last, submitted = submitted, queue = queue,
  }
end

-- Where a task waits. Equal priorities sort by member, thus by number.
local function place_of(task)
  return base .. (task.last == '1' and ':last:' or ':waiting:') .. task.queue
end

local function put_back(id, task)
  later('ZADD', place_of(task), task.priority, task.seq .. id)
  count(queue_of(task.queue), 'waiting', 1)
end

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
