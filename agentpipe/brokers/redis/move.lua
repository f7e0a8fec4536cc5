#!lua
-- needs: rooms
-- ARGV: collection, limit, cursor of DELAYED, and agents that left it. Moves up to `limit` of their
-- tasks to the collection's current agents, round-robin, as far as there is room. Returns how many it
-- moved, and the cursor to go on at if none was moved; '0' at the end.

local collection, limit = ARGV[1], tonumber(ARGV[2])
local agents, removed, moved = {}, {}, 0
for index = 4, #ARGV do
  agents[#agents + 1] = ARGV[index]
end
read_queues(agents)
for _, name in ipairs(agents) do
  local queue = queues[name]
  if queue and queue[POSITION] < 0 and queue[COLLECTION] == collection then
    removed[#removed + 1], removed[name] = name, true
  end
end
local cursor = 'cursor:' .. collection
local rooms = rooms_of(collection, true, limit, tonumber(call('HGET', STORE, cursor) or 0))

local function take_back(name, state, task, due)
  if state == N_DELAYED then
    count_delayed(name, due, -1)
  else
    count(name, N_WAITING, -1)
  end
  if state == N_WAITING and task.last == '1' then
    count(name, N_LAST, -1)
  end
end

-- Returns false if no agent has room.
local function move(id, record, state)
  local task, target = task_of(record), next_room(rooms)
  if not target then
    return false
  end
  if state == N_WAITING then
    later('ZREM', place_of(task), task.seq .. id)
  end
  local due = state == N_DELAYED and tonumber(call('ZSCORE', DELAYED, id) or 0)
  take_back(task.queue, state, task, due)
  task.queue = target
  task.last = task.crashes > 0 and task.crashes + 1 == queues[target][MAX_CRASHES] and '1' or '0'
  later('HSET', TASKS, id, record_of(task))
  if state == N_WAITING then
    put_back(id, task)
  else
    count_delayed(target, due, 1)
  end
  moved = moved + 1
  return true
end

local function move_waiting(place)
  local ids = {}
  for index, member in ipairs(call('ZRANGE', place, 0, limit - moved - 1)) do
    ids[index] = member:sub(17)
  end
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    if record and not move(ids[index], record, N_WAITING) then
      return
    end
  end
end

local PARTS = 2 -- Of about CHUNK delayed tasks, in one call.

-- Delayed tasks of all queues share one set, so scan it: not by rank, because those that fall due
-- between two calls leave it. Returns the cursor to go on at, '0' at the end.
local function move_delayed()
  local left, cursor, seen = 0, ARGV[3], {}
  for _, name in ipairs(removed) do
    left = left + queues[name][N_DELAYED]
  end
  for _ = 1, PARTS do
    if left <= 0 or moved == limit then
      return '0'
    end
    local page, ids = call('ZSCAN', DELAYED, cursor, 'COUNT', CHUNK), {}
    for index = 1, #page[2], 2 do
      ids[#ids + 1] = page[2][index]
    end
    for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
      local id, _, name = ids[index], last_and_queue(record or '')
      if name and removed[name] and not seen[id] and moved < limit then
        left, seen[id] = left - 1, true -- A scan can yield a task twice.
        if not move(id, record, N_DELAYED) then
          return '0'
        end
      end
    end
    cursor = page[1]
    if cursor == '0' then
      return cursor
    end
  end
  return cursor
end

for _, name in ipairs(removed) do
  for _, place in ipairs({':last:', ':waiting:'}) do
    if moved < limit then
      move_waiting(base .. place .. name)
    end
  end
end
local go_on_at = move_delayed()
if moved > 0 then
  call('HSET', STORE, cursor, string.format('%d', rooms.cursor))
  save_queues()
  wake_idle()
end
return {moved, go_on_at}
