-- Shared by the scripts that claim, after `policies`: parks tasks that may not start yet, because
-- their run has spent its budget or their policy is too far ahead.

local parking = on_demand(function()
  local parking = {}

  -- Written at once, not by `later`: a unit that starts later in this script may look for it.
  local function park(queue, id, due)
    call('ZADD', DELAYED, due, id)
    count(queue, N_WAITING, -1)
    count_delayed(queue, due, 1)
  end

  -- Park the task if its run has spent its budget; returns whether it did.
  function parking.park_if_spent(queue, member)
    local id = member:sub(17)
    local run = id:match('^([^/]+)/')
    if not run or call('SISMEMBER', SPENT, 'run ' .. run) == 0
      or call('HEXISTS', NOTES, 'cancel ' .. id) == 1 then -- It only gets answered: no cost.
      return false
    end
    park(queue, id, PARKED_BY_BUDGET)
    return true
  end

  -- The policy of each collection that was looked up, and how many units each policy may start.
  local policies_of, rooms = {}, {}
  local siblings_wait = false

  local function policy_of(queue)
    local collection = queues[queue][COLLECTION]
    if policies_of[collection] == nil then
      local name = call('HGET', FOLLOWERS, collection)
      policies_of[collection] = name or false
      if name and rooms[name] == nil then
        rooms[name] = policies.room(name) or false
      end
    end
    local name = policies_of[collection]
    return name and rooms[name] and name
  end

  local function begin_unit(name, unit)
    rooms[name] = rooms[name] - 1
    call('HSET', UNITS, unit, name)
    call('HINCRBY', policies.key(name), 'running', 1)
    local group = unit:match('^group (.*)$')
    if group then
      siblings_wait = policies.unpark_group(group) > 0 or siblings_wait
    end
  end

  -- Park the task if its policy may not start more units yet, or else start its unit, unless it has
  -- begun. Returns whether the task was parked.
  function parking.park_if_ahead(queue, member)
    local name, id = policy_of(queue), member:sub(17)
    if not name then
      return false
    end
    local unit = policies.unit_of(id)
    if call('HEXISTS', UNITS, unit) == 1 or call('HEXISTS', NOTES, 'cancel ' .. id) == 1 then
      return false
    elseif rooms[name] > 0 then
      begin_unit(name, unit)
      return false
    end
    park(queue, id, PARKED_BY_POLICY)
    parked.add(name, member, task_of(call('HGET', TASKS, id)).priority)
    return true
  end

  -- Whether parked members of a group that started were unparked: they are due at the next claim.
  function parking.siblings_wait()
    return siblings_wait
  end

  return parking
end)
