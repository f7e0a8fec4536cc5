#!lua flags=allow-oom
-- ARGV: the layout's number, then for each queue its name, collection ('' for none), position
-- ('' outside a ring), limit, concurrency and max_crashes. Returns how many are new.

local rings, new = {}, 0

if call('EXISTS', STORE) == 0 then
  -- Numbers begin at the time, so that those of a store that was emptied never come back.
  local time = call('TIME')
  call('HSET', STORE, 'layout', ARGV[1], 'next', time[1] * 1000000 + time[2])
end

local function leave_ring(collection, name)
  call('ZREM', base .. ':ring:' .. collection, name)
  call('ZREM', base .. ':room:' .. collection, name)
end

local function declare(name, collection, position, limit, concurrency, max_crashes)
  local key = base .. ':queue:' .. name
  local found = call('HMGET', key, 'limit', 'concurrency', 'max_crashes', 'position', 'collection')
  local same = found[1] == limit and found[2] == concurrency and found[3] == max_crashes
    and found[4] == position and found[5] == collection
  if same then
    return
  end
  call('HSET', key, 'limit', limit, 'concurrency', concurrency, 'max_crashes', max_crashes,
    'position', position, 'collection', collection)
  if not found[1] then
    new = new + 1
    call('HSET', key, 'waiting', 0, 'delayed', 0, 'running', 0, 'turn', 0)
    call('SADD', QUEUES, name)
  elseif found[4] ~= '' then
    leave_ring(found[5], name)
  end
  local queue = queue_of(name)
  if queue.position ~= '' then
    call('ZADD', base .. ':ring:' .. collection, position, name)
  end
  -- Both indexes are made anew.
  call('ZREM', READY, name)
  queue.was_ready, queue.had_room = false, false
  count(queue, 'waiting', 0)
  if is_ready(queue) then
    ring()
  end
end

for first = 2, #ARGV, 6 do
  local name, collection, position = ARGV[first], ARGV[first + 1], ARGV[first + 2]
  declare(name, collection, position, ARGV[first + 3], ARGV[first + 4], ARGV[first + 5])
  if position ~= '' then
    rings[collection] = rings[collection] or {}
    rings[collection][name] = true
  end
end
for collection, names in pairs(rings) do
  for _, name in ipairs(call('ZRANGE', base .. ':ring:' .. collection, 0, -1)) do
    if not names[name] then
      leave_ring(collection, name)
      call('HSET', base .. ':queue:' .. name, 'position', '')
    end
  end
end
save_queues()
return new
