-- Shared by all scripts: pauses. PAUSES is a set of 'queue NAME' and 'collection NAME'. Each queue's
-- PAUSED flag is derived from it and from the collections that have spent their budget.
--
-- A change reaches the flags part by part, since a script stops the server for as long as it runs.
-- CHANGES has what is not applied yet: 'flags' with a cursor of QUEUES, and 'run NAME' for a run
-- whose parked tasks are due again. Each claim applies a part, and checks the flags that it relies
-- on.

local pauses = on_demand(function()
  local pauses = {}

  function pauses.is_paused(name, collection)
    return call('SISMEMBER', PAUSES, 'queue ' .. name) == 1
      or (collection ~= '' and (call('SISMEMBER', PAUSES, 'collection ' .. collection) == 1
        or call('SISMEMBER', SPENT, 'collection ' .. collection) == 1))
  end

  -- Why a queue is paused, from its collection's pause or its own; empty if there is no reason.
  function pauses.reason_of(name, collection)
    return collection ~= '' and call('HGET', REASONS, 'collection ' .. collection)
      or call('HGET', REASONS, 'queue ' .. name) or ''
  end

  -- Set the flags of these queues.
  function pauses.set_flags(names)
    read_queues(names)
    for _, name in ipairs(names) do
      local queue = queues[name]
      local flag = queue and pauses.is_paused(name, queue[COLLECTION]) and 1 or 0
      if queue and flag ~= queue[PAUSED] then
        queue[PAUSED], changed[name] = flag, true
      end
    end
  end

  local function apply_flags(cursor)
    local page, names = call('HSCAN', QUEUES, cursor, 'COUNT', PORTION), {}
    for index = 1, #page[2], 2 do
      names[#names + 1] = page[2][index]
    end
    pauses.set_flags(names)
    return page[1] ~= '0' and page[1]
  end

  -- In the order of sorted sets; Lua compares strings by locale.
  local function precedes(one, other)
    for index = 1, math.min(#one, #other) do
      local mine, its = one:byte(index), other:byte(index)
      if mine ~= its then
        return mine < its
      end
    end
    return #one < #other
  end

  -- The rank of the first task with this prefix that is parked until its run's budget changes.
  local function rank_of(prefix)
    local low, high = call('ZCOUNT', DELAYED, '-inf', '(' .. PARKED_BY_BUDGET), call('ZCARD', DELAYED)
    while low < high do
      local middle = math.floor((low + high) / 2)
      if precedes(call('ZRANGE', DELAYED, middle, middle)[1], prefix) then
        low = middle + 1
      else
        high = middle
      end
    end
    return low
  end

  -- Make parked tasks of a run due. Returns whether there are more.
  local function end_parking(run)
    local prefix, ids = run .. '/', {}
    local from = rank_of(prefix)
    for _, id in ipairs(call('ZRANGE', DELAYED, from, from + PORTION - 1)) do
      if id:sub(1, #prefix) == prefix then
        ids[#ids + 1] = id
      end
    end
    for index, record in ipairs(read_records(ids)) do
      later('ZADD', DELAYED, 0, ids[index])
      if record then
        local _, queue = last_and_queue(record)
        count(queue, N_PARKED, -1)
      end
    end
    if #ids > 0 then
      flush()
      wake_all()
    end
    return #ids == PORTION
  end

  -- Apply a part of one change.
  local function apply(what, place)
    local run = what:match('^run (.*)$')
    if not run then
      place = apply_flags(place)
    elseif call('SISMEMBER', SPENT, what) == 1 or not end_parking(run) then
      place = false
    end
    if place then
      call('HSET', CHANGES, what, place)
    else
      call('HDEL', CHANGES, what)
    end
  end

  -- Begin to apply a change: to the flags, or to the parked tasks of 'run NAME'.
  function pauses.begin(what)
    apply(what, '0')
  end

  -- Go on with a change, if there is one. The caller saves the queues. Returns whether there is
  -- more to apply.
  function pauses.go_on()
    local found = call('HSCAN', CHANGES, '0', 'COUNT', 1)[2]
    if found[1] then
      apply(found[1], found[2])
    end
    return call('EXISTS', CHANGES)
  end

  -- Whether flags can be out of date.
  function pauses.are_incomplete()
    return call('HEXISTS', CHANGES, 'flags') == 1
  end

  -- Correct the flags of these queues if they can be out of date.
  function pauses.correct(names)
    if pauses.are_incomplete() then
      pauses.set_flags(names)
    end
  end

  return pauses
end)
