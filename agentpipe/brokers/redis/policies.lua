-- Shared by the scripts that know policies. `policies.names` is the set of their names, `FOLLOWERS`
-- has the policy of each collection that has one. The hash of a policy: 'spec' as a file has declared it
-- last, 'endpoints' that hold now, 'version', 'paused' (0 or 1), 'pauses', how often it was; where it limits
-- what begins, 'batch' and 'max_staleness', else ''; 'accepted', 'running' and 'stale' count groups.
-- `UNITS` has the policy of what has begun and not ended, 'group NAME' or 'task ID'; MEMBERS is
-- that of `groups`.

local policies = on_demand(function()
  local policies = {}
  policies.names = base .. ':policies'

  function policies.key(name)
    return base .. ':policy:' .. name
  end

  -- Their workers look, whatever else has woken them.
  function policies.wake_workers()
    call('PUBLISH', WAKE, '')
  end

  -- What a file says of a collection; an empty name where it follows none. Returns whether that is new.
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

  -- Nine values for each: its name, and the fields; '' for one that is missing.
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

  -- How many may begin now; nothing where that is not limited.
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

  -- What lies apart for its policy is due at the next claim, and counts as delayed until then.
  function policies.unpark(id, queue)
    call('ZADD', DELAYED, 0, id)
    count(queue, N_PARKED, -1)
  end

  -- All that lies apart, with its unit and what it is ordered by.
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

  -- Let as many groups wait again as may begin now, in the order in which they were sent; all of them
  -- where nothing is limited. Whether there were any.
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

  -- Let all of it wait again: the next claims park what may not begin.
  function policies.open_all()
    for _, task in ipairs(policies.all_parked()) do
      policies.unpark(task.id, task.queue)
    end
  end

  -- Count what has ended, where its policy counts; otherwise another may begin in its place.
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
