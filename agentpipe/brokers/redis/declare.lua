#!lua flags=allow-oom
-- ARGV: the layout's number, '1' where only unknown queues are meant, then for each queue name,
-- limit, concurrency, max_crashes, position (-1 outside a ring) and collection ('' for none).
-- Returns how many of them are new.

local only_new, rings, names, new = ARGV[2] == '1', {}, {}, 0

if call('EXISTS', STORE) == 0 then
  -- Numbers begin at the time, so that those of a store that was emptied never come back.
  local time = call('TIME')
  call('HSET', STORE, 'layout', ARGV[1], 'next', time[1] * 1000000 + time[2])
end

local function leave_ring(name, queue)
  call('ZREM', base .. ':ring:' .. queue[COLLECTION], name)
  call('ZREM', base .. ':room:' .. queue[COLLECTION], name)
end

local function differs(queue, limits)
  for index, value in ipairs(limits) do
    if queue[index] ~= value then
      return true
    end
  end
  return false
end

local function change(name, limits)
  local queue = queues[name]
  if not queue then
    queue, new = {}, new + 1
    queues[name] = queue
    for state = N_WAITING, TURN do
      queue[state] = 0
    end
  elseif queue[POSITION] >= 0 then
    leave_ring(name, queue)
  end
  for index, value in ipairs(limits) do
    queue[index] = value
  end
  if queue[POSITION] >= 0 then
    call('ZADD', base .. ':ring:' .. queue[COLLECTION], queue[POSITION], name)
  end
  call('ZREM', READY, name)
  found_turn[name], found_room[name], changed[name] = false, false, true -- To be indexed anew.
  if is_ready(queue) then
    ring()
  end
end

local function declare(index)
  local name, collection = ARGV[index], ARGV[index + 5]
  local limits = {}
  for offset = 1, 4 do
    limits[offset] = tonumber(ARGV[index + offset])
  end
  limits[COLLECTION] = collection
  if not queues[name] or (not only_new and differs(queues[name], limits)) then
    change(name, limits)
  end
  if limits[POSITION] >= 0 and not only_new then
    rings[collection] = rings[collection] or {}
    rings[collection][name] = true
  end
end

for index = 3, #ARGV, 6 do
  names[#names + 1] = ARGV[index]
end
read_queues(names)
for index = 3, #ARGV, 6 do
  declare(index)
end
for collection, members in pairs(rings) do
  local before = call('ZRANGE', base .. ':ring:' .. collection, 0, -1)
  read_queues(before)
  for _, name in ipairs(before) do
    if not members[name] then
      leave_ring(name, queues[name])
      queues[name][POSITION], found_room[name], changed[name] = -1, false, true
    end
  end
end
save_queues()
return new
