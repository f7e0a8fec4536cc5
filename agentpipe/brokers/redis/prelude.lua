-- What the scripts share. KEYS[1] is '{prefix}:store'; each key of the set begins with the same
-- {prefix}, a hash tag, so that all of them lie in one slot of a cluster.

local STORE = KEYS[1]
local base = STORE:sub(1, -7)
local call = redis.call

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

-- As a number and as a text: to print a number takes longer than a command.
local function now()
  local time = call('TIME')
  return time[1] + time[2] / 1e6, time[1] .. '.' .. ('00000' .. time[2]):sub(-6)
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

-- Queues are read once and written once by a script, all together: packed arrays, by name. The
-- position in the ring is -1 outside one, the collection may be empty, N_LAST counts those of the
-- waiting that are in their last chance, TURN is the number at which it was last served.

local LIMIT, CONCURRENCY, MAX_CRASHES, POSITION, COLLECTION = 1, 2, 3, 4, 5
local N_WAITING, N_DELAYED, N_RUNNING, N_LAST, TURN = 6, 7, 8, 9, 10

-- As read: the queues, the turn at which each is indexed as ready, whether it is as with room.
local queues, found_turn, found_room, changed = {}, {}, {}, {}

local function is_ready(queue)
  return queue[N_WAITING] > 0 and queue[N_RUNNING] < queue[CONCURRENCY]
end

local function has_room(queue)
  return queue[POSITION] >= 0 and queue[N_WAITING] < queue[LIMIT]
end

-- Read those that `queues` is to hold; false for one that is not known.
local function read_queues(names)
  for index, packed in ipairs(read_many('HMGET', QUEUES, names)) do
    local name = names[index]
    if queues[name] == nil then
      local queue = packed and cmsgpack.unpack(packed)
      queues[name] = queue
      if queue then
        found_turn[name], found_room[name] = is_ready(queue) and queue[TURN], has_room(queue)
      end
    end
  end
end

local function count(name, state, change)
  local queue = queues[name]
  queue[state] = queue[state] + change
  changed[name] = true
end

-- Write what changed, and keep the two indexes: queues with work, by turn, and with room.
local function save_queues()
  for name in pairs(changed) do
    local queue = queues[name]
    local ready, room = is_ready(queue), has_room(queue)
    later('HSET', QUEUES, name, cmsgpack.pack(queue))
    if ready and found_turn[name] ~= queue[TURN] then
      later('ZADD', READY, string.format('%d', queue[TURN]), name)
    elseif found_turn[name] and not ready then
      later('ZREM', READY, name)
    end
    if room and not found_room[name] then
      later('ZADD', base .. ':room:' .. queue[COLLECTION], queue[POSITION], name)
    elseif found_room[name] and not room then
      later('ZREM', base .. ':room:' .. queue[COLLECTION], name)
    end
    found_turn[name], found_room[name] = ready and queue[TURN], room
  end
  changed = {}
  flush()
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

-- The two of a record that each settlement needs.
local function last_and_queue(record)
  return record:match('^%d+ %S+ %d+ %d+ (%d) %S+ (.*)$')
end

-- The records of tasks, false for one that does not live; their queues are read, too.
local function read_records(ids)
  local records, names, seen = read_many('HMGET', TASKS, ids), {}, {}
  for _, record in ipairs(records) do
    if record then
      local _, name = last_and_queue(record)
      if not seen[name] then
        names[#names + 1], seen[name] = name, true
      end
    end
  end
  read_queues(names)
  return records
end

-- Where a task waits. Equal priorities sort by member, thus by number.
local function place_of(task)
  return base .. (task.last == '1' and ':last:' or ':waiting:') .. task.queue
end

local function put_back(id, task)
  later('ZADD', place_of(task), task.priority, task.seq .. id)
  count(task.queue, N_WAITING, 1)
  if task.last == '1' then
    count(task.queue, N_LAST, 1)
  end
end
