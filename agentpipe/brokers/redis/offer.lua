#!lua
-- needs: rooms
-- ARGV: session, request, seconds to remember it, target; '1' for round-robin, '0' for a queue, or
-- 'any' for a queue even if it is full; the number of values per offer; then these for each offer:
-- 1: id; 2: id, payload; 4: id, payload, priority, delay. With the ids alone, the offers are staged:
-- this transaction has stored their payloads, and kept those that it replaced.
-- Returns 'DEPTH BOUND VERDICTS', with a letter for each offer (accepted, duplicate, refused).

local argv = ARGV -- A local is faster to access.
local target, to_ring, unbounded = argv[4], argv[5] == '1', argv[5] == 'any'
local step = tonumber(argv[6])
local is_staged = step == 1
local total = (#argv - 6) / step
local ids = {}
for index = 1, total do
  ids[index] = argv[7 + (index - 1) * step]
end
local kept = is_staged and call('HGETALL', KEPT) or {}
-- The transaction has kept something of each known task.
local living = (not is_staged or #kept > 0) and read_many('HMGET', TASKS, ids) or {}

-- Restore the payloads of known tasks, and remove those of no task.
local function tidy()
  for place = 1, #kept, 2 do
    if call('HEXISTS', TASKS, kept[place]) == 1 then
      call('HSET', PAYLOADS, kept[place], kept[place + 1])
    end
  end
  for index, id in ipairs(ids) do
    if not living[index] then
      later('HDEL', PAYLOADS, id)
    end
  end
  call('DEL', KEPT)
  flush()
end

local before = answered()
if before then
  if is_staged then
    tidy()
  end
  return before
end

local settled = read_many('ZMSCORE', SETTLED, ids)

local stored = call('HMGET', STORE, 'next', 'accepted', 'cursor:' .. target)
local rooms = rooms_of(target, to_ring, total, tonumber(stored[3] or 0), unbounded)

local time = now()
local _, submitted = wall()
local seen, verdicts, accepted, refused = {}, {}, 0, false
local first = tonumber(stored[1] or 0) + 1
local tasks, payloads, order, delayed, waiting = {}, {}, {}, {}, {}

-- The accepted tasks of a queue: key of its sorted set, suffix of their records, and the values to
-- add, `n` in all.
local function waiting_in(queue)
  local found = waiting[queue]
  if not found then
    found = {key = base .. ':waiting:' .. queue, ending = ' 0 0 0 ' .. submitted .. ' ' .. queue, n = 0}
    waiting[queue] = found
  end
  return found
end

local function admit(index, queue)
  local place, found = 7 + (index - 1) * step, waiting_in(queue)
  local id, priority, delay = ids[index], '0', 0
  if step == 4 then
    priority, delay = argv[place + 2], tonumber(argv[place + 3])
  end
  local seq, at = string.format('%016d', first + index - 1), 2 * accepted
  tasks[at + 1], tasks[at + 2] = id, seq .. ' ' .. priority .. found.ending
  if not is_staged then
    payloads[at + 1], payloads[at + 2] = id, argv[place + 1]
  end
  order[at + 1], order[at + 2] = seq, id
  if delay > 0 then
    delayed[#delayed + 1], delayed[#delayed + 2] = time + delay, id
    count(queue, N_DELAYED, 1)
  else
    local n = found.n
    found[n + 1], found[n + 2], found.n = priority, seq .. id, n + 2
  end
end

for index = 1, total do
  local id = ids[index]
  if living[index] or settled[index] or seen[id] then
    verdicts[index] = 'd'
  else
    local queue = next_room(rooms)
    if queue then
      admit(index, queue)
      count_in_run(id, 'tasks', 1)
      accepted, seen[id], living[index], verdicts[index] = accepted + 1, true, true, 'a'
    else
      refused, verdicts[index] = true, 'r'
    end
  end
end

if is_staged then
  tidy()
end
if accepted > 0 then
  local values = {'next', string.format('%d', first + total - 1),
    'accepted', string.format('%d', tonumber(stored[2] or 0) + accepted)}
  if to_ring then
    values[5], values[6] = 'cursor:' .. target, string.format('%d', rooms.cursor)
  end
  call('HSET', STORE, unpack(values))
  flush_one('HSET', TASKS, tasks)
  flush_one('HSET', PAYLOADS, payloads)
  flush_one('ZADD', ORDER, order)
  flush_one('ZADD', DELAYED, delayed)
  for queue, found in pairs(waiting) do
    flush_one('ZADD', found.key, found)
    if found.n > 0 then
      count(queue, N_WAITING, found.n / 2)
    end
  end
  save_runs()
  save_queues()
  wake_idle()
end
return remember((refused and depth_and_bound(target, to_ring) or '0 0 ') .. table.concat(verdicts))
