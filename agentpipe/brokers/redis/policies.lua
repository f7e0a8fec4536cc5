-- Shared by the scripts that handle policies. `policies.names` is the set of their names. FOLLOWERS
-- has the policy of each collection that follows one. A policy's hash has:
-- 'spec': as a file declared it last.
-- 'endpoints', 'version', 'paused' (0 or 1): the current values.
-- 'pauses': how often it was paused.
-- 'batch', 'max_staleness': limit what may start; '' for no limit.
-- 'accepted', 'running', 'stale': counts of units.
-- UNITS has the policy of each unit, 'group NAME' or 'task ID', that has started and not ended. For
-- MEMBERS see `groups`.
-- POLICY_CHANGES has the changes that are applied in part, since a script stops the server for as
-- long as it runs: 'open NAME' with the number of units to unpark, 'open' with a cursor of PARKED,
-- 'stale NAME' with a cursor of UNITS. Each claim applies a part.

local policies = on_demand(function()
  local policies = {}
  policies.names = base .. ':policies'

  local NO_LIMIT = 1e15

  function policies.key(name)
    return base .. ':policy:' .. name
  end

  -- Wake all workers, so that they read the policies.
  function policies.wake_workers()
    call('PUBLISH', WAKE, '')
  end

  -- Declare a collection's policy from its file; an empty name for none. Returns whether it
  -- changed.
  function policies.declare(collection, name, spec, endpoints, batch, max_staleness)
    if name == '' then
      return call('HDEL', FOLLOWERS, collection) == 1
    end
    local key, follows = policies.key(name), call('HGET', FOLLOWERS, collection) == name
    if call('HGET', key, 'spec') == spec then
      if not follows then
        call('HSET', FOLLOWERS, collection, name)
      end
      return not follows
    end
    call('SADD', policies.names, name)
    call('HSET', FOLLOWERS, collection, name)
    call('HSET', key, 'spec', spec, 'endpoints', endpoints, 'batch', batch,
      'max_staleness', max_staleness)
    for _, field in ipairs({'version', 'paused', 'pauses', 'accepted', 'running', 'stale'}) do
      call('HSETNX', key, field, '0')
    end
    return true
  end

  policies.fields = {'spec', 'endpoints', 'version', 'paused', 'pauses', 'accepted', 'running',
    'stale'}

  -- Nine values per policy: its name, and the fields; '' for a missing field.
  function policies.tell(names)
    local reply = {}
    for _, name in ipairs(names) do
      reply[#reply + 1] = name
      for _, value in ipairs(call('HMGET', policies.key(name), unpack(policies.fields))) do
        reply[#reply + 1] = value or ''
      end
    end
    return reply
  end

  -- Note where a change is to go on; `place` is false if all of it is applied.
  function policies.note_change(what, place)
    if place then
      call('HSET', POLICY_CHANGES, what, place)
    else
      call('HDEL', POLICY_CHANGES, what)
    end
  end

  -- How many units may start now; nil for no limit.
  function policies.room(name)
    local found = call('HMGET', policies.key(name), 'batch', 'max_staleness', 'version', 'accepted', 'running')
    if (found[1] or '') == '' or (found[2] or '') == '' then
      return nil
    end
    return (found[2] + found[3] + 1) * found[1] - found[4] - found[5]
  end

  function policies.unit_of(id)
    local group = call('HGET', MEMBERS, id)
    return group and 'group ' .. group or 'task ' .. id
  end

  -- Unpark the tasks of a group. Returns how many there were.
  function policies.unpark_group(name)
    local ids, unparked = call('HVALS', base .. ':group:' .. name), 0
    for index, record in ipairs(read_records(ids)) do
      if record then
        local _, queue = last_and_queue(record)
        unparked = unparked + parked.unpark(ids[index], queue)
      end
    end
    return unparked
  end

  local function unpark_unit(unit, id, queue)
    local group = unit:match('^group (.*)$')
    return parked.unpark(id, queue) + (group and policies.unpark_group(group) or 0)
  end

  -- Unpark a part of the first `most` units, in claim order. Returns how many units are left, and
  -- whether there were any.
  local function unpark_part(name, most)
    local ids, chosen, unparked, is_stale = parked.first(name), {}, 0, false
    for index, record in ipairs(read_records(ids)) do
      local id = ids[index]
      local unit = policies.unit_of(id)
      if not record then
        parked.remove(id)
        is_stale = true
      elseif unparked >= PORTION or (most <= 0 and not chosen[unit]) then
        return most, true
      else
        local _, queue = last_and_queue(record)
        local number = unpark_unit(unit, id, queue)
        if number > 0 and not chosen[unit] then
          most, chosen[unit] = most - 1, true
        end
        is_stale = is_stale or not chosen[unit]
        unparked = unparked + number
      end
    end
    -- Entries that a worker of an older version left hid as many tasks that it parked.
    return (#ids == PORTION or is_stale) and most or 0, unparked > 0
  end

  -- Unpark as many units as may start now, in claim order; all of them if there is no limit.
  -- Returns whether there were any. A part of many: see POLICY_CHANGES.
  function policies.unpark_units(name)
    return policies.unpark_up_to(name, policies.room(name) or NO_LIMIT)
  end

  -- Unpark up to `most` units, in claim order. Returns whether there were any.
  function policies.unpark_up_to(name, most)
    local left, unparked = 0, false
    if most > 0 then
      left, unparked = unpark_part(name, most)
    end
    policies.note_change('open ' .. name, left > 0 and string.format('%.0f', left))
    return unparked
  end

  -- Unpark everything: the next claims park again what may not start. A part of much.
  function policies.unpark_all(cursor)
    local ids, next_cursor = parked.scan(cursor)
    local is_stale = false
    for index, record in ipairs(read_records(ids)) do
      if record then
        local _, queue = last_and_queue(record)
        is_stale = parked.unpark(ids[index], queue) == 0 or is_stale
      else
        parked.remove(ids[index])
        is_stale = true
      end
    end
    -- Once more from the start after stale entries: see `unpark_part`.
    policies.note_change('open', (next_cursor ~= '0' or is_stale) and next_cursor)
  end

  -- How many units of each policy ended in this script without being accepted.
  local ended = {}

  -- Count an ended unit for its policy. If it was not accepted, another may start in its place.
  function policies.end_unit(unit, accepted)
    local name = call('HGET', UNITS, unit)
    if not name then
      return
    end
    call('HDEL', UNITS, unit)
    call('HINCRBY', policies.key(name), 'running', -1)
    if accepted then
      call('HINCRBY', policies.key(name), 'accepted', 1)
    else
      ended[name] = (ended[name] or 0) + 1
    end
  end

  -- Unpark this number of units of each policy, and wake the workers for them. The caller saves the
  -- queues.
  local function unpark_and_wake(numbers)
    local unparked = false
    for name, number in pairs(numbers) do
      unparked = policies.unpark_up_to(name, number) or unparked
    end
    if unparked then
      policies.wake_workers()
    end
  end

  -- Unpark as many units as ended without being accepted, if so many may start: the others that may
  -- start are not parked (see `replace_unparked`). The caller saves the queues.
  function policies.replace_ended()
    local numbers = {}
    for name, number in pairs(ended) do
      local left = tonumber(call('HGET', POLICY_CHANGES, 'open ' .. name) or 0)
      numbers[name] = math.min(policies.room(name) or NO_LIMIT, left + number)
    end
    unpark_and_wake(numbers)
  end

  -- Unpark for the policies of these collections as many units as may start now, whose tasks may
  -- be parked behind some that are gone. The caller saves the queues.
  function policies.replace_unparked(collections)
    local numbers = {}
    for collection in pairs(collections) do
      local name = call('HGET', FOLLOWERS, collection)
      if name then
        numbers[name] = policies.room(name) or NO_LIMIT
      end
    end
    unpark_and_wake(numbers)
  end

  return policies
end)
