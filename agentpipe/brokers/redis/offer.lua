#!lua
-- needs: rooms
-- ARGV: session, request, seconds to remember it, target, '1' for round-robin or 'any' for a queue that may be
-- full, '1' where priorities and delays follow, then for each offer its id and payload, and with them priority and delay.
-- Returns 'depth bound verdicts': a letter for each offer (accepted, duplicate, refused).

local before = answered()
if before then
  return before
end

local target, to_ring, unbounded, step = ARGV[4], ARGV[5] == '1', ARGV[5] == 'any', ARGV[6] == '1' and 4 or 2
local total = (#ARGV - 6) / step
local ids = {}
for index = 1, total do
  ids[index] = ARGV[7 + (index - 1) * step]
end
local living = read_many('HMGET', TASKS, ids)
local settled = read_many('ZMSCORE', SETTLED, ids)

local stored = call('HMGET', STORE, 'next', 'accepted', 'rung', 'cursor:' .. target)
local rooms = rooms_of(target, to_ring, total, tonumber(stored[4] or 0), unbounded)

local time = now()
local _, submitted = wall()
local seen, verdicts, accepted, refused, waking = {}, {}, 0, false, false
local first = tonumber(stored[1] or 0) + 1

local function admit(index, queue)
  local place = 7 + (index - 1) * step
  local id, priority, delay = ids[index], '0', 0
  if step == 4 then
    priority, delay = ARGV[place + 2], tonumber(ARGV[place + 3])
  end
  local number = first + index - 1
  local seq = string.format('%016d', number)
  later('HSET', TASKS, id, seq .. ' ' .. priority .. ' 0 0 0 ' .. submitted .. ' ' .. queue)
  later('HSET', PAYLOADS, id, ARGV[place + 1])
  later('ZADD', ORDER, seq, id)
  if delay > 0 then
    later('ZADD', DELAYED, time + delay, id)
    count(queue, N_DELAYED, 1)
  else
    later('ZADD', base .. ':waiting:' .. queue, priority, seq .. id)
    count(queue, N_WAITING, 1)
    waking = waking or is_ready(queues[queue])
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
      accepted, seen[id], verdicts[index] = accepted + 1, true, 'a'
    else
      refused, verdicts[index] = true, 'r'
    end
  end
end

if accepted > 0 then
  local values = {'next', string.format('%d', first + total - 1),
    'accepted', string.format('%d', tonumber(stored[2] or 0) + accepted)}
  if to_ring then
    values[5], values[6] = 'cursor:' .. target, string.format('%d', rooms.cursor)
  end
  call('HSET', STORE, unpack(values))
  save_runs()
  save_queues()
  if waking and not stored[3] then
    ring()
  end
end
return remember((refused and depth_and_bound(target, to_ring) or '0 0 ') .. table.concat(verdicts))
