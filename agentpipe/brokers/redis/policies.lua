-- Shared by the scripts that handle policies. `policies.names` is the set of their names. FOLLOWERS
-- has the policy of each collection that follows one. A policy's hash has:
-- 'spec': as a file declared it last.
-- 'endpoints', 'version', 'paused' (0 or 1): the current values.
-- 'pauses': how often it was paused.
-- 'batch', 'max_staleness': limit what may start; '' for no limit.
-- 'accepted', 'running', 'stale': counts of units.
-- UNITS has the policy of each unit, 'group NAME' or 'task ID', that has started and not ended. For
-- MEMBERS see `groups`.

local policies = on_demand(function()
  local policies = {}
  policies.names = base .. ':policies'

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

  -- Make a task that its policy parked due at the next claim; until then it counts as delayed.
  function policies.unpark(id, queue)
    call('ZADD', DELAYED, 0, id)
    count(queue, N_PARKED, -1)
  end

  -- All tasks that policies parked, with their units, in claim order.
  function policies.all_parked()
    local ids, found = call('ZRANGEBYSCORE', DELAYED, AHEAD, AHEAD), {}
    for index, record in ipairs(read_records(ids)) do
      if record then
        local task = task_of(record)
        found[#found + 1] = {id = ids[index], queue = task.queue, seq = task.seq,
          priority = tonumber(task.priority), unit = policies.unit_of(ids[index])}
      end
    end
    table.sort(found, function(one, other)
      return one.priority < other.priority or (one.priority == other.priority and one.seq < other.seq)
    end)
    return found
  end

  -- Unpark as many units as may start now, in claim order; all of them if there is no limit.
  -- Returns whether there were any.
  function policies.open_gate(name)
    local room, chosen, opened = policies.room(name) or math.huge, {}, false
    if room <= 0 then
      return false
    end
    for _, task in ipairs(policies.all_parked()) do
      if call('HGET', FOLLOWERS, queues[task.queue][COLLECTION]) == name then
        if not chosen[task.unit] and room > 0 then
          chosen[task.unit], room = true, room - 1
        end
        if chosen[task.unit] then
          policies.unpark(task.id, task.queue)
          opened = true
        end
      end
    end
    return opened
  end

  -- Unpark everything: the next claims park again what may not start.
  function policies.open_all()
    for _, task in ipairs(policies.all_parked()) do
      policies.unpark(task.id, task.queue)
    end
  end

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
    elseif policies.open_gate(name) then
      save_queues()
      policies.wake_workers()
    end
  end

  return policies
end)
