-- Shared by all scripts: queues. A script reads and writes each queue once, in batches. QUEUES has
-- them by name, as packed arrays:
-- POSITION: in the round-robin group; -1 outside any group.
-- COLLECTION, GATE: empty if there is none. A gate is a concurrency group.
-- N_LAST: how many of the waiting tasks are in their last chance: one more crash ends them.
-- TURN: the number at which the queue was last served.
-- HELD_UNTIL: when its cooldown ends; 0 if there is none.
-- PAUSED: 1 if it or its collection is paused, or the collection has spent its budget.
-- RUN_S: mean duration of its runs; 0 before the first.
-- N_PARKED: how many of the delayed tasks are parked: their run has spent its budget, or their
-- policy may not start more yet.

local LIMIT, CONCURRENCY, MAX_CRASHES, POSITION, COLLECTION, GATE = 1, 2, 3, 4, 5, 6
local N_WAITING, N_DELAYED, N_RUNNING, N_LAST, TURN, HELD_UNTIL = 7, 8, 9, 10, 11, 12
local PAUSED, RUN_S, N_PARKED = 13, 14, 15

-- The queues, and their state as last indexed: turn in the ready index, whether in the room index,
-- and number of running tasks.
local queues, found_turn, found_room, found_running, changed = {}, {}, {}, {}, {}
local found_claimable = {}
-- How many more tasks can be claimed than when the script began, by queue and by gate.
local gained, gate_gained = {}, {}

local function is_ready(queue)
  return queue[N_WAITING] > 0 and queue[N_RUNNING] < queue[CONCURRENCY]
    and queue[HELD_UNTIL] == 0 and queue[PAUSED] == 0
end

-- How many of its tasks can be claimed, ignoring its gate.
local function claimable(queue)
  return is_ready(queue) and math.min(queue[N_WAITING], queue[CONCURRENCY] - queue[N_RUNNING]) or 0
end

-- Delayed tasks count: they will wait later.
local function room_in(queue)
  return queue[LIMIT] - queue[N_WAITING] - queue[N_DELAYED]
end

local function has_room(queue)
  return queue[POSITION] >= 0 and room_in(queue) > 0
end

-- Load these into `queues`, unless loaded; false for an unknown queue.
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
        found_running[name], found_claimable[name] = queue[N_RUNNING], claimable(queue)
      end
    end
  end
end

local function count(name, state, change)
  local queue = queues[name]
  queue[state] = (queue[state] or 0) + change -- Older queues lack N_PARKED.
  changed[name] = true
end

-- Scores of parked tasks in DELAYED; no real delay is as long.
local PARKED_BY_BUDGET = 1e15 -- The task's run has spent its budget.
local PARKED_BY_POLICY = 5e14 -- The task's policy may not start more yet.

local function count_delayed(name, due, change)
  count(name, N_DELAYED, change)
  if due >= PARKED_BY_POLICY then
    count(name, N_PARKED, change)
  end
end

-- Gates: concurrency groups. GATES has the limit of each and its running tasks. Ready queues with a
-- gate are indexed by turn in the gate's own index instead of READY. OPEN has the gates with work
-- and room, each at the turn of its first queue. So a full gate costs a claim nothing, however many
-- tasks wait behind it.

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

-- Call it after the ready indexes are written.
local function save_gates()
  for gate, running in pairs(gates_changed) do
    local room, now_running = room_of(gate, running)
    gate_gained[gate] = (gate_gained[gate] or 0) - running
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

-- Whether any task can be claimed by any worker.
local function anything_ready()
  return call('EXISTS', READY, OPEN) > 0
end

local function note_gain(name, number)
  gained[name] = (gained[name] or 0) + number - (found_claimable[name] or 0)
  found_claimable[name] = number
end

-- Write changed queues, and update the indexes of queues with work, by turn, and of queues with
-- room.
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
    note_gain(name, claimable(queue))
  end
  changed = {}
  flush()
  save_gates()
end

-- Wake all workers, at most once before the next claim.
local function wake_all()
  if call('HSETNX', STORE, 'rung', '1') == 1 then
    call('PUBLISH', WAKE, '')
  end
end
