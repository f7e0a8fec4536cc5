-- Shared by all scripts. KEYS[1] is '{prefix}:store'; each key of the set begins with the same
-- {prefix}, a hash tag, so that all of them lie in one slot of a cluster. KEYS[2] is not a key: it ends
-- with the seconds since the caller's last script that asked for the time, if there was one.

local STORE = KEYS[1]
local base = STORE:sub(1, -7)
local call = redis.call

local QUEUES = base .. ':queues'
local READY = base .. ':ready'
local GATES = base .. ':gates'
local OPEN = base .. ':open'
local HOLDS = base .. ':holds'
local PAUSES = base .. ':pauses'
local REASONS = base .. ':reasons'
local STREAKS = base .. ':streaks'
local NOTES = base .. ':notes'
local DELAYED = base .. ':delayed'
local TASKS = base .. ':tasks'
local PAYLOADS = base .. ':payloads'
local ORDER = base .. ':order'
local SETTLED = base .. ':settled'
local RESULTS = base .. ':results'
local OUTBOX = base .. ':outbox'
local WORKERS = base .. ':workers'
local DEAD = base .. ':dead'
local TALLIES = base .. ':tallies'
local SUSPECTS = base .. ':suspects'
local SOURCES = base .. ':sources'
local RUNS = base .. ':runs'
local DRAINS = base .. ':drains'
local WAKE = base .. ':wake'
local CLOCK = base .. ':clock'
local SPENT = base .. ':spent'
local MEASURES = base .. ':measures'
-- The numbers of those in the outbox that say how a group ended.
local GROUP_RECORDS = base .. ':group_records'

local CHUNK = 4000 -- Lua's stack takes not many more arguments at once.
local PORTION = 500 -- So many tasks are moved on the side by one call.

-- Time. TIME is the server's wall clock, which jumps when it is set; durations end by the store's own
-- clock, which differs from it by the jumps so far (skew). A script compares TIME with what the last
-- one saw. Where it went back, it jumped. Where more has passed than the caller has waited since it
-- asked last, by a clock that does not jump, the rest is a jump.

local LATENCY = 1.5 -- Seconds that a request may be under way, and half of one between two notes.
local SILENCE = 2 -- Seconds and a third of a lease: some living worker is heard before.

local function look()
  local time, found = call('TIME'), call('HMGET', CLOCK, 'skew', 'seen', 'lease')
  local wall = time[1] + time[2] / 1e6
  local skew, passed = tonumber(found[1] or 0), wall - tonumber(found[2] or wall)
  local waited, jump = tonumber((KEYS[2] or ''):match('[%d.]+$')), math.min(passed, 0)
  if waited and passed > waited + LATENCY then
    jump = passed - waited
  end
  local seen = {
    wall = wall, wall_text = time[1] .. '.' .. ('00000' .. time[2]):sub(-6), jump = jump,
    skew = skew - jump, is_noted = found[2] and passed <= 0.5,
    is_silent = passed - jump > SILENCE + tonumber(found[3] or 0) / 3,
  }
  seen.time = wall + seen.skew
  -- Formatting a number takes longer than a command.
  seen.text = seen.skew == 0 and seen.wall_text or string.format('%.6f', seen.time)
  return seen
end

-- A moment of the store's clock in Unix time, by whole seconds of difference.
local function as_wall(moment, seen)
  local ahead = math.floor(seen.wall - seen.time + 0.5)
  return ahead == 0 and moment or string.format('%.6f', tonumber(moment) + ahead)
end

-- No worker was heard for longer than a living one is silent: all are dead, or none could reach the
-- server. Each gets the time for one heartbeat, once.
local function await_workers(time)
  for _, name in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
    local key = base .. ':worker:' .. name
    local found = call('HMGET', key, 'lease', 'awaited')
    if not found[2] then
      call('ZADD', WORKERS, 'GT', time + tonumber(found[1] or 0) / 3 + SILENCE, name)
      call('HSET', key, 'awaited', '1')
    end
  end
end

local moment

-- The time as a number and as a string, the same for the whole script; only for scripts that write.
local function now()
  if not moment then
    moment = look()
    if not moment.is_noted or moment.jump ~= 0 then
      call('HSET', CLOCK, 'skew', string.format('%.6f', moment.skew), 'seen', moment.wall_text)
    end
    if moment.is_silent then
      await_workers(moment.time)
    end
  end
  return moment.time, moment.text
end

-- Unix time, for what people read.
local function wall()
  now()
  return moment.wall, moment.wall_text
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

-- ARGV has the session, the number and the seconds to remember it, at `at`, by default first.

local function answered(at)
  at = at or 1
  local last = call('GET', base .. ':replies:' .. ARGV[at])
  if not last then
    return nil
  end
  local number, reply = last:match('^(%d+) (.*)$')
  if tonumber(number) < tonumber(ARGV[at + 1]) then
    return nil
  end
  return number == ARGV[at + 1] and reply or 'overtaken'
end

local function remember(reply, at)
  at = at or 1
  call('SET', base .. ':replies:' .. ARGV[at], ARGV[at + 1] .. ' ' .. reply, 'EX', ARGV[at + 2])
  return reply
end

-- Runs. RUNS has the name of each that has a record, its key that and the counts: 'tasks', of each
-- config and outcome 'done CONFIG OUTCOME', and 'rewarded', 'rewards' and 'usd'; 'broken' where one
-- of them was no number and began anew.

local run_keys, run_counts = {}, {}

-- The key of the run that an id names, if it has a record.
local function run_of(id)
  local name = id:find('/', 1, true) and id:match('^([^/]+)/')
  if not name then
    return nil
  end
  if run_keys[name] == nil then
    local key = base .. ':run:' .. name
    run_keys[name] = call('EXISTS', key) == 1 and key
  end
  return run_keys[name]
end

local function count_in_run(id, field, number)
  local key = run_of(id)
  if key and number ~= 0 then
    run_counts[key] = run_counts[key] or {}
    run_counts[key][field] = (run_counts[key][field] or 0) + number
  end
end

-- What another program wrote into a count must not stop a task half way.
local function save_runs()
  for key, counts in pairs(run_counts) do
    for field, number in pairs(counts) do
      local text = string.format('%.17g', number)
      local done = redis.pcall('HINCRBYFLOAT', key, field, text)
      if type(done) == 'table' and done.err then
        redis.pcall('HSET', key, field, text, 'broken', '1')
      end
    end
  end
  run_counts = {}
end

-- Measures: numbers that only rise, by collection or by queue outside any, packed as doubles. Which
-- number counts what, agentpipe/brokers/measures.py says; it names them by their places from 0.

local measured = {}

local function add_at(numbers, place, number)
  numbers[place + 1] = (numbers[place + 1] or 0) + number
end

-- Add to the numbers of a queue's collection, and return what is added to them here; `more` has a
-- place and a number for each.
local function measure(queue, collection, more)
  local owner = collection ~= '' and collection or queue
  local numbers = measured[owner] or {}
  for place, number in more:gmatch('(%d+)=(%S+)') do
    add_at(numbers, tonumber(place), tonumber(number))
  end
  measured[owner] = numbers
  return numbers
end

local function save_measures(width)
  for owner, more in pairs(measured) do
    local packed = call('HGET', MEASURES, owner) or ''
    local numbers = {struct.unpack('<' .. ('d'):rep(#packed / 8), packed)}
    for place = 1, width do
      numbers[place] = (place <= #packed / 8 and numbers[place] or 0) + (more[place] or 0)
    end
    call('HSET', MEASURES, owner, struct.pack('<' .. ('d'):rep(width), unpack(numbers, 1, width)))
  end
end

-- Queues are read once and written once by a script, all together: packed arrays, by name. The
-- position in the round-robin group is -1 outside one, the collection may be empty, N_LAST counts those of the
-- waiting that are in their last chance, TURN is the number at which it was last served, HELD_UNTIL
-- is 0 where it is not held, GATE is empty where it has none, PAUSED is 1 where it or its collection
-- is or that has spent its budget, RUN_S a mean of how long its runs took, 0 before the first,
-- N_PARKED counts those of the delayed whose run has spent its budget, or whose policy is ahead.

local LIMIT, CONCURRENCY, MAX_CRASHES, POSITION, COLLECTION, GATE = 1, 2, 3, 4, 5, 6
local N_WAITING, N_DELAYED, N_RUNNING, N_LAST, TURN, HELD_UNTIL = 7, 8, 9, 10, 11, 12
local PAUSED, RUN_S, N_PARKED = 13, 14, 15

-- As read: the queues, the turn at which each is indexed as ready, whether it is as with room, and
-- what runs of it if it has a gate.
local queues, found_turn, found_room, found_running, changed = {}, {}, {}, {}, {}

local function is_ready(queue)
  return queue[N_WAITING] > 0 and queue[N_RUNNING] < queue[CONCURRENCY]
    and queue[HELD_UNTIL] == 0 and queue[PAUSED] == 0
end

-- Delayed tasks count: they will wait.
local function room_in(queue)
  return queue[LIMIT] - queue[N_WAITING] - queue[N_DELAYED]
end

local function has_room(queue)
  return queue[POSITION] >= 0 and room_in(queue) > 0
end

-- Read those that `queues` is to hold; false for one that is not known.
local function read_queues(names)
  local unread = {}
  for _, name in ipairs(names) do
    if queues[name] == nil then
      unread[#unread + 1] = name
    end
  end
  for index, packed in ipairs(read_many('HMGET', QUEUES, unread)) do
    local name = unread[index]
    if queues[name] == nil then
      local queue = packed and cmsgpack.unpack(packed)
      queues[name] = queue
      if queue then
        found_turn[name], found_room[name] = is_ready(queue) and queue[TURN], has_room(queue)
        found_running[name] = queue[N_RUNNING]
      end
    end
  end
end

local function count(name, state, change)
  local queue = queues[name]
  queue[state] = (queue[state] or 0) + change -- N_PARKED came later than some queues.
  changed[name] = true
end

-- No delay is as long: a task whose run has spent its budget lies apart.
local FOREVER = 1e15
local AHEAD = 5e14 -- Of one whose policy may not begin more yet.

local function count_delayed(name, due, change)
  count(name, N_DELAYED, change)
  if due >= AHEAD then
    count(name, N_PARKED, change)
  end
end

-- Gates: concurrency groups. GATES has the limit and the running of each. Queues with a gate are not indexed as ready
-- with the others but in its own index, by turn; OPEN has the gates with work and room for it, each
-- at the turn of its first queue. So a full gate costs a claim nothing, whatever waits behind it.

local function ready_index(gate)
  return gate == '' and READY or base .. ':gate:' .. gate
end

local gates_changed, a_gate_opened = {}, false

local function note_gate(gate, running)
  if gate ~= '' then
    gates_changed[gate] = (gates_changed[gate] or 0) + running
  end
end

local function room_of(gate, running)
  local found = call('HMGET', GATES, 'limit ' .. gate, 'running ' .. gate)
  local now_running = tonumber(found[2] or 0) + running
  return tonumber(found[1] or 0) - now_running, now_running
end

-- After the indexes were written.
local function save_gates()
  for gate, running in pairs(gates_changed) do
    local room, now_running = room_of(gate, running)
    if running ~= 0 then
      call('HSET', GATES, 'running ' .. gate, string.format('%d', now_running))
    end
    local first = room > 0 and call('ZRANGE', ready_index(gate), 0, 0, 'WITHSCORES')
    if first and first[1] then
      a_gate_opened = call('ZADD', OPEN, first[2], gate) == 1 or a_gate_opened
    else
      call('ZREM', OPEN, gate)
    end
  end
  gates_changed = {}
end

-- Whether any worker could claim anything.
local function anything_ready()
  return call('EXISTS', READY, OPEN) > 0
end

-- Write what changed, and keep the indexes: queues with work, by turn, and with room.
local function save_queues()
  for name in pairs(changed) do
    local queue = queues[name]
    local ready, room = is_ready(queue), has_room(queue)
    later('HSET', QUEUES, name, cmsgpack.pack(queue))
    if ready and found_turn[name] ~= queue[TURN] then
      later('ZADD', ready_index(queue[GATE]), string.format('%d', queue[TURN]), name)
    elseif found_turn[name] and not ready then
      later('ZREM', ready_index(queue[GATE]), name)
    end
    note_gate(queue[GATE], queue[N_RUNNING] - found_running[name])
    if room and not found_room[name] then
      later('ZADD', base .. ':room:' .. queue[COLLECTION], queue[POSITION], name)
    elseif found_room[name] and not room then
      later('ZREM', base .. ':room:' .. queue[COLLECTION], name)
    end
    found_turn[name], found_room[name] = ready and queue[TURN], room
    found_running[name] = queue[N_RUNNING]
  end
  changed = {}
  flush()
  save_gates()
end

-- Pauses: a set of 'queue NAME' and 'collection NAME', from which each queue's flag is made, and from
-- the collections that have spent their budgets.

local function is_paused(name, collection)
  return call('SISMEMBER', PAUSES, 'queue ' .. name) == 1
    or (collection ~= '' and (call('SISMEMBER', PAUSES, 'collection ' .. collection) == 1
      or call('SISMEMBER', SPENT, 'collection ' .. collection) == 1))
end

-- Make the flag of each queue anew.
local function apply_pauses()
  local names = call('HKEYS', QUEUES)
  read_queues(names)
  for _, name in ipairs(names) do
    local queue = queues[name]
    local flag = is_paused(name, queue[COLLECTION]) and 1 or 0
    if flag ~= queue[PAUSED] then
      queue[PAUSED], changed[name] = flag, true
    end
  end
end

-- Why a queue is paused, by its own pause or its collection's; an empty string without a reason.
local function reason_of(name, collection)
  return collection ~= '' and call('HGET', REASONS, 'collection ' .. collection)
    or call('HGET', REASONS, 'queue ' .. name) or ''
end

-- Wake waiting workers, once until the next claim.
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

-- SUSPECTS: queues with a limit of one crash in which tasks in their last chance may wait. Such a
-- task ran beside others when their worker died, and may have killed it: it runs alone in a worker,
-- so that a crash of that is its own.

local function put_back(id, task)
  later('ZADD', place_of(task), task.priority, task.seq .. id)
  count(task.queue, N_WAITING, 1)
  if task.last == '1' then
    count(task.queue, N_LAST, 1)
    if queues[task.queue][MAX_CRASHES] == 1 then
      later('SADD', SUSPECTS, task.queue)
    end
  end
end

-- Claims: a worker's hash has the claim's number, and when it was made, by the task's id.

local function number_of(held_as)
  return held_as and held_as:match('^%d+')
end
