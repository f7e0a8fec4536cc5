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
      queue.was_ready, queue.had_room, queue.changed = is_ready(queue), has_room(queue), {}
    else
      queue = false
    end
    queues[name] = queue
  end
  return queue
end

local function count(queue, state, change)
  queue[state] = queue[state] + change
  queue.changed[state] = true
end

local function save_queue(name, queue)
  local values = {}
  for field in pairs(queue.changed) do
    values[#values + 1] = field
    values[#values + 1] = queue[field]
  end
  call('HSET', base .. ':queue:' .. name, unpack(values))
end

-- Write what changed, and keep the two indexes: queues with work, by turn, and with room.
local function save_queues()
  for name, queue in pairs(queues) do
    if queue and next(queue.changed) then
      save_queue(name, queue)
      local ready, room = is_ready(queue), has_room(queue)
      if ready and (not queue.was_ready or queue.changed.turn) then
        call('ZADD', READY, queue.turn, name)
      elseif queue.was_ready and not ready then
        call('ZREM', READY, name)
      end
      if room and not queue.had_room then
        call('ZADD', base .. ':room:' .. queue.collection, queue.position, name)
      elseif queue.had_room and not room then
        call('ZREM', base .. ':room:' .. queue.collection, name)
      end
      queue.was_ready, queue.had_room, queue.changed = ready, room, {}
    end
  end
end

-- Wake who waits for work, once until somebody claims.
local function ring()
  if call('HSETNX', STORE, 'rung', '1') == 1 then
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
