-- Shared by the scripts that handle policies, before `policies`: the tasks that their policy parked.
-- PARKED has 'NUMBER POLICY' of each by id. The index of each policy has its tasks in claim order.

local parked = on_demand(function()
  local parked = {}

  local function index_of(policy)
    return base .. ':parked:' .. policy
  end

  -- `member` is the task's number and id, as in the queue where it waited.
  function parked.add(policy, member, priority)
    call('HSET', PARKED, member:sub(17), member:sub(1, 16) .. ' ' .. policy)
    call('ZADD', index_of(policy), priority, member)
  end

  function parked.remove(id)
    local seq, policy = (call('HGET', PARKED, id) or ''):match('^(%d+) (.*)$')
    if seq then
      call('HDEL', PARKED, id)
      call('ZREM', index_of(policy), seq .. id)
    end
  end

  -- Make a parked task due at the next claim; until then it counts as delayed. Returns how many
  -- tasks that were: a worker of an older version does not remove what it unparks from the index.
  function parked.unpark(id, queue)
    parked.remove(id)
    if tonumber(call('ZSCORE', DELAYED, id) or 0) ~= PARKED_BY_POLICY then
      return 0
    end
    call('ZADD', DELAYED, 0, id)
    count(queue, N_PARKED, -1)
    return 1
  end

  -- Workers of older versions park without the index: add their tasks.
  local function complete_index()
    if call('ZCOUNT', DELAYED, PARKED_BY_POLICY, PARKED_BY_POLICY) <= call('HLEN', PARKED) then
      return
    end
    local ids = call('ZRANGEBYSCORE', DELAYED, PARKED_BY_POLICY, PARKED_BY_POLICY)
    local known = read_many('HMGET', PARKED, ids)
    for index, record in ipairs(read_records(ids)) do
      local task = record and not known[index] and task_of(record)
      local policy = task and call('HGET', FOLLOWERS, queues[task.queue][COLLECTION])
      if policy then
        parked.add(policy, task.seq .. ids[index], task.priority)
      elseif task then
        parked.unpark(ids[index], task.queue)
      end
    end
  end

  -- The first tasks that this policy parked, in claim order: PORTION of them, or all.
  function parked.first(policy)
    complete_index()
    local ids = {}
    for index, member in ipairs(call('ZRANGE', index_of(policy), 0, PORTION - 1)) do
      ids[index] = member:sub(17)
    end
    return ids
  end

  -- About PORTION parked tasks of any policy from this cursor of a scan, and the next cursor.
  function parked.scan(cursor)
    complete_index()
    local ids = {}
    repeat
      local page = call('HSCAN', PARKED, cursor, 'COUNT', PORTION)
      for index = 1, #page[2], 2 do
        ids[#ids + 1] = page[2][index]
      end
      cursor = page[1]
    until cursor == '0' or #ids >= PORTION
    return ids, cursor
  end

  return parked
end)
