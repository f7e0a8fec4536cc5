-- Shared by the scripts that put tasks into queues with room: into one queue, or into a
-- collection's round-robin group, starting at its cursor.

-- Find at most `wanted` queues with room. An `unbounded` queue has room for all `wanted` tasks.
local function rooms_of(target, to_ring, wanted, cursor, unbounded)
  local rooms = {free = {}, later_on = {}, at = 0, to_ring = to_ring, cursor = cursor}

  -- Returns the queues without room.
  local function add_free(names)
    local full = {}
    read_queues(names)
    for _, name in ipairs(names) do
      local queue = queues[name]
      local room = queue and (unbounded and wanted or room_in(queue)) or 0
      if room > 0 then
        rooms.free[#rooms.free + 1] = {name, room}
      else
        full[#full + 1] = name
      end
    end
    return full
  end

  if not to_ring then
    add_free({target})
    return rooms
  end
  local key = base .. ':room:' .. target
  local full
  repeat
    rooms.free = {}
    local names = call('ZRANGEBYSCORE', key, cursor, '+inf', 'LIMIT', 0, wanted)
    if #names < wanted then
      local left = wanted - #names
      for _, name in ipairs(call('ZRANGEBYSCORE', key, '-inf', '(' .. cursor, 'LIMIT', 0, left)) do
        names[#names + 1] = name
      end
    end
    full = add_free(names)
    if #full > 0 then -- Indexed by an older version, which ignored delayed tasks.
      flush_one('ZREM', key, full)
    end
  until #full == 0
  return rooms
end

local function next_room(rooms)
  rooms.at = rooms.at + 1
  if rooms.at > #rooms.free then
    rooms.free, rooms.later_on, rooms.at = rooms.later_on, {}, 1
  end
  local found = rooms.free[rooms.at]
  if not found then
    return nil
  end
  if found[2] > 1 then
    found[2] = found[2] - 1
    rooms.later_on[#rooms.later_on + 1] = found
  end
  if rooms.to_ring then
    rooms.cursor = queues[found[1]][POSITION] + 1
  end
  return found[1]
end

local SAMPLE = 500 -- Queues; those of one collection have the same bound, and all are full.

-- 'DEPTH BOUND ' of a queue or of a whole group: the start of an offer's reply if any was refused.
-- Of a larger group it reads a sample, and takes the others to be alike.
local function depth_and_bound(target, to_ring)
  local depth, bound, key = 0, 0, base .. ':ring:' .. target
  local names = to_ring and call('ZRANGE', key, 0, SAMPLE - 1) or {target}
  read_queues(names)
  for _, name in ipairs(names) do
    local queue = queues[name]
    if queue then
      depth, bound = depth + queue[N_WAITING] + queue[N_DELAYED], bound + queue[LIMIT]
    end
  end
  local scale = #names == SAMPLE and call('ZCARD', key) / SAMPLE or 1
  return string.format('%.0f %.0f ', depth * scale, bound * scale)
end
