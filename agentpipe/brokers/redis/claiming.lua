-- Shared by the scripts that claim, after `ending` and `policies`.

local claims = (function()
  local claims = {}

  local FEW, MOST = 64, 4
  local name, asked, limit, held, HELD, most_records, most_bytes, known_s, time, time_text
  local kept_back = false

  local function read_arguments(first)
    name, asked, held = ARGV[first], tonumber(ARGV[first + 1]), tonumber(ARGV[first + 4])
    most_records, most_bytes = tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
    known_s = tonumber(ARGV[first + 5])
    limit, HELD = asked, base .. ':held:' .. name
  end

  -- What most stores have nothing of at most times: whether there is any, in one question.
  local has_rare

  local function look_for_rare()
    has_rare = call('EXISTS', DELAYED, HOLDS, SUSPECTS, OPEN, NOTES, SPENT, policies.followers) > 0
  end

  local function reply_of(number, ids, records)
    local payloads, reply, notes = read_many('HMGET', PAYLOADS, ids), {number}, {}
    if has_rare then
      for index, id in ipairs(ids) do
        notes[2 * index - 1], notes[2 * index] = 'cancel ' .. id, 'cooled ' .. id
      end
      notes = read_many('HMGET', NOTES, notes)
    end
    for index, id in ipairs(ids) do
      local cancelled, cooled = notes[2 * index - 1] or '0', notes[2 * index] or '0'
      reply[2 * index] = #id .. ' ' .. cancelled .. ' ' .. cooled .. ' ' .. id .. (records[index] or '')
      reply[2 * index + 1] = payloads[index] or ''
    end
    return reply
  end

  -- The claims of an earlier request, as far as the worker still holds them.
  local function again(memory)
    local given, ids = cmsgpack.unpack(memory), {}
    local number = table.remove(given)
    for index, held_as in ipairs(read_many('HMGET', HELD, given)) do
      if number_of(held_as) == number then
        ids[#ids + 1] = given[index]
      end
    end
    has_rare = true
    return reply_of(number, ids, read_records(ids))
  end

  local function wake_delayed(time)
    local due = call('ZRANGEBYSCORE', DELAYED, '-inf', time, 'LIMIT', 0, PORTION)
    if #due == 0 then
      return false
    end
    for index, record in ipairs(read_records(due)) do
      if record then
        local task = task_of(record)
        count(task.queue, N_DELAYED, -1)
        put_back(due[index], task)
      end
    end
    call('ZREM', DELAYED, unpack(due))
    save_queues()
    return true
  end

  local function end_holds(time)
    local over = call('ZRANGEBYSCORE', HOLDS, '-inf', time, 'LIMIT', 0, PORTION)
    if #over == 0 then
      return false
    end
    read_queues(over)
    for _, queue in ipairs(over) do
      queues[queue][HELD_UNTIL], changed[queue] = 0, true
    end
    call('ZREM', HOLDS, unpack(over))
    save_queues()
    return true
  end

  local function forget_settled(time)
    local old = call('ZRANGEBYSCORE', SETTLED, '-inf', '(' .. time - known_s,
      'LIMIT', 0, PORTION)
    if #old > 0 then
      call('ZREM', SETTLED, unpack(old))
    end
  end

  local function above_marks(bytes)
    return call('HLEN', RESULTS) >= most_records or bytes >= most_bytes
  end

  -- Up to `wanted` queues of the worker with a task and room for a run, the longest unserved first.
  local function served_of(index, serves, wanted)
    local found, from = {}, 0
    while #found < wanted do
      local page = call('ZRANGE', index, from, from + 99)
      if #page == 0 then
        break
      end
      local served = call('SMISMEMBER', base .. ':serves:' .. serves, unpack(page))
      for place, queue in ipairs(page) do
        if served[place] == 1 and #found < wanted then
          found[#found + 1] = queue
        end
      end
      from = from + 100
    end
    return found
  end

  -- The room left in each open concurrency group (gate) if every chosen queue gets one run.
  local spare = {}

  -- When queues of different indexes were served last.
  local turns = {}

  local function sort_by_turn(found)
    table.sort(found, function(one, other)
      return turns[one] < turns[other] or (turns[one] == turns[other] and one < other)
    end)
  end

  local function add_to(found, index, more)
    for place, turn in ipairs(read_many('ZMSCORE', index, more)) do
      found[#found + 1], turns[more[place]] = more[place], tonumber(turn)
    end
    if #found > limit then
      sort_by_turn(found)
    end
    for place = #found, limit + 1, -1 do
      found[place] = nil
    end
  end

  local function are_all_before(found, turn)
    for _, queue in ipairs(found) do
      if turns[queue] > turn then
        return false
      end
    end
    return true
  end

  -- The queues of READY and of the gates together. Gates come by the turn of their first queue: a gate
  -- behind all that can be claimed need not be read.
  local function with_gated(ungated, serves)
    local found, from = {}, 0
    add_to(found, READY, ungated)
    repeat
      local page = call('ZRANGE', OPEN, from, from + 99, 'WITHSCORES')
      for place = 1, #page, 2 do
        local gate, turn = page[place], tonumber(page[place + 1])
        if #found >= limit and are_all_before(found, turn) then
          return found
        end
        spare[gate] = room_of(gate, 0)
        local index = ready_index(gate)
        add_to(found, index, served_of(index, serves, math.min(limit, spare[gate])))
      end
      from = from + 100
    until #page == 0
    return found
  end

  -- The worker's own queues that are ready, found from the smaller of the two: it does not matter how
  -- many are ready that others serve. The server sorts them, by turn and then by name.
  local function ungated_among(key)
    local found = call('ZINTER', 2, READY, key, 'WEIGHTS', 1, 0)
    for place = #found, limit + 1, -1 do
      found[place] = nil
    end
    return found
  end

  -- The same where some have a gate, looked at one by one.
  local function ready_among(names)
    local found, chosen = {}, {}
    read_queues(names)
    for _, queue in ipairs(names) do
      if queues[queue] and is_ready(queues[queue]) then
        found[#found + 1], turns[queue] = queue, queues[queue][TURN]
      end
    end
    sort_by_turn(found)
    for _, queue in ipairs(found) do
      local gate = queues[queue][GATE]
      spare[gate] = spare[gate] or (gate == '' and math.huge or room_of(gate, 0))
      if #chosen < limit and spare[gate] > 0 then
        chosen[#chosen + 1], spare[gate] = queue, spare[gate] - 1
      end
    end
    return chosen
  end

  -- Whether others serve so many of those that are ready that one's own are found faster one by one.
  local function are_mostly_others(number)
    return number <= FEW or call('ZCARD', READY) + call('ZCARD', OPEN) > MOST * number
  end

  local function ready_queues(serves)
    local key = base .. ':serves:' .. serves
    if are_mostly_others(call('SCARD', key)) then
      local has_gates = has_rare and call('EXISTS', OPEN) == 1
      return has_gates and ready_among(call('SMEMBERS', key)) or ungated_among(key)
    end
    local found = served_of(READY, serves, limit)
    if has_rare and call('EXISTS', OPEN) == 1 then
      found = with_gated(found, serves)
      sort_by_turn(found)
      read_queues(found)
      for _, queue in ipairs(found) do
        local gate = queues[queue][GATE]
        spare[gate] = (spare[gate] or 0) - 1
      end
    end
    return found
  end

  -- The even share of each worker of the same queues.
  local function even_share(serves, ready)
    local peers, running = call('SMEMBERS', base .. ':fleet:' .. serves), 0
    for _, peer in ipairs(peers) do
      running = running + call('HLEN', base .. ':held:' .. peer)
    end
    return math.ceil((running + ready) / math.max(1, #peers))
  end

  -- Whether the first task in its last chance comes before the others of its queue.
  local function last_comes_first(queue)
    local last = call('ZRANGE', base .. ':last:' .. queue, 0, 0, 'WITHSCORES')
    local rival = call('ZRANGE', base .. ':waiting:' .. queue, 0, 0, 'WITHSCORES')
    local mine, its = tonumber(last[2]), tonumber(rival[2])
    return mine < its or (mine == its and last[1] < rival[1])
  end

  -- Take the next tasks of a queue, and at most one in its last chance; false where none was.
  local function take_members(queue, room, alone)
    local members, lone = {}, alone and queues[queue][N_LAST] > 0 and queues[queue][MAX_CRASHES] > 1
    if lone then
      local others = queues[queue][N_WAITING] - queues[queue][N_LAST]
      lone = others < room or last_comes_first(queue)
    end
    if lone then
      members[1], room = call('ZPOPMIN', base .. ':last:' .. queue)[1], room - 1
      count(queue, N_LAST, -1)
      call('HSET', base .. ':worker:' .. name, 'last', members[1])
    end
    if room > 0 then
      local popped = call('ZPOPMIN', base .. ':waiting:' .. queue, room)
      for index = 1, #popped, 2 do
        members[#members + 1] = popped[index]
      end
    end
    return members, lone
  end

  -- A task that may not begin yet lies apart. At once: what begins later in this script may look for it.
  local function park(queue, id, due)
    call('ZADD', DELAYED, due, id)
    count(queue, N_WAITING, -1)
    count_delayed(queue, due, 1)
  end

  -- Whether its run has spent its budget; then it is parked.
  local function is_parked(queue, member)
    local id = member:sub(17)
    local run = id:match('^([^/]+)/')
    if not run or call('SISMEMBER', SPENT, 'run ' .. run) == 0
      or call('HEXISTS', NOTES, 'cancel ' .. id) == 1 then -- Costs nothing: it only is answered.
      return false
    end
    park(queue, id, FOREVER)
    return true
  end

  -- What may begin of each policy, of which anything is asked.
  local policies_of, rooms, siblings_wait = {}, {}, false

  local function policy_of(queue)
    local collection = queues[queue][COLLECTION]
    if policies_of[collection] == nil then
      local name = call('HGET', policies.followers, collection)
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
    call('HSET', policies.units, unit, name)
    call('HINCRBY', policies.key(name), 'running', 1)
    local group = unit:match('^group (.*)$')
    if group then
      for _, id in ipairs(call('HVALS', base .. ':group:' .. group)) do
        if tonumber(call('ZSCORE', DELAYED, id) or 0) == AHEAD then
          local _, its = last_and_queue(call('HGET', TASKS, id))
          read_queues({its})
          policies.unpark(id, its)
          siblings_wait = true
        end
      end
    end
  end

  -- Whether its policy may not begin more yet; then it is parked. What may begin does so here.
  local function is_ahead(queue, member)
    local name, id = policy_of(queue), member:sub(17)
    if not name then
      return false
    end
    local unit = policies.unit_of(id)
    if call('HEXISTS', policies.units, unit) == 1 or call('HEXISTS', NOTES, 'cancel ' .. id) == 1 then
      return false
    elseif rooms[name] > 0 then
      begin_unit(name, unit)
      return false
    end
    park(queue, id, AHEAD)
    return true
  end

  local parked_all = true

  -- The same tasks but for those of spent runs, with others in their place.
  local function take_affordable(queue, room, alone)
    local found, lone = take_members(queue, room, alone)
    if not has_rare or call('EXISTS', SPENT, policies.followers) == 0 then
      return found, lone
    end
    local kept, seen = {}, 0
    while #found > 0 do
      for index, member in ipairs(found) do
        seen = seen + 1
        if not is_parked(queue, member) and ((lone and seen == 1) or not is_ahead(queue, member)) then
          kept[#kept + 1] = member
        elseif lone and seen == 1 then
          lone = false
          call('HDEL', base .. ':worker:' .. name, 'last')
        end
      end
      if #kept == room or seen >= PORTION then
        parked_all = parked_all and #kept == room
        break
      end
      found = {}
      local popped = call('ZPOPMIN', base .. ':waiting:' .. queue, room - #kept)
      for index = 1, #popped, 2 do
        found[#found + 1] = popped[index]
      end
    end
    return kept, lone
  end

  -- An equal share for each queue that is ready, the rest for a later claim.
  local function claim_tasks(ready, alone)
    local turn, ids = numbers(1), {}
    local number = string.format('%d', turn)
    read_queues(ready)
    for place, name_of_queue in ipairs(ready) do
      local queue = queues[name_of_queue]
      local share = math.max(1, math.floor((limit - #ids) / (#ready - place + 1)))
      local room = math.min(share, queue[CONCURRENCY] - queue[N_RUNNING])
      local gated = queue[GATE] ~= ''
      if gated then
        room = math.min(room, 1 + spare[queue[GATE]])
      end
      local members, lone = take_affordable(name_of_queue, room, alone)
      if gated then
        spare[queue[GATE]] = spare[queue[GATE]] + 1 - #members
      end
      for _, member in ipairs(members) do
        local id = member:sub(17)
        ids[#ids + 1] = id
        later('HSET', HELD, id, number .. ' ' .. time_text)
      end
      alone = alone and not lone
      queue[TURN] = turn
      count(name_of_queue, N_WAITING, -#members)
      count(name_of_queue, N_RUNNING, #members)
      kept_back = kept_back or is_ready(queue)
    end
    save_queues()
    return number, ids
  end

  local function has_room_in_gate(gate)
    return gate == '' or room_of(gate, 0) > 0
  end

  -- A queue of the worker in which a suspect waits that may run now.
  local function suspicious_queue(serves)
    local names = call('SMEMBERS', SUSPECTS)
    read_queues(names)
    for _, queue in ipairs(names) do
      local state = queues[queue]
      if not state or state[N_LAST] == 0 or state[MAX_CRASHES] > 1 then
        call('SREM', SUSPECTS, queue)
      elseif is_ready(state) and has_room_in_gate(state[GATE])
        and call('SISMEMBER', base .. ':serves:' .. serves, queue) == 1 then
        return queue
      end
    end
  end

  -- Whether this is the one of its peers that claims nothing until it can run a suspect: in a fleet
  -- that always has other work none would run.
  local function must_become_idle(serves)
    local peers = call('SMEMBERS', base .. ':fleet:' .. serves)
    table.sort(peers)
    return peers[1] == name
  end

  -- The suspect of this queue, alone.
  local function claim_suspect(queue)
    local turn = numbers(1)
    local number = string.format('%d', turn)
    local member = call('ZPOPMIN', base .. ':last:' .. queue)[1]
    local id = member:sub(17)
    if is_parked(queue, member) then
      count(queue, N_LAST, -1)
      save_queues()
      return nil, {}
    end
    call('HSET', base .. ':worker:' .. name, 'last', member, 'alone', '1')
    later('HSET', HELD, id, number .. ' ' .. time_text)
    queues[queue][TURN] = turn
    count(queue, N_LAST, -1)
    count(queue, N_WAITING, -1)
    count(queue, N_RUNNING, 1)
    save_queues()
    return number, {id}
  end

  local function claim()
    local worker = call('HMGET', base .. ':worker:' .. name, 'serves', 'last', 'alone')
    if not worker[1] then
      return nil, {} -- Its lease lapsed: it learns so from its next extend.
    end
    local stored = call('HMGET', STORE, 'rung', 'outbox_bytes')
    if stored[1] then
      call('HDEL', STORE, 'rung')
    end
    if above_marks(tonumber(stored[2] or 0)) or worker[3] then
      return nil, {}
    end
    local suspicious = has_rare and call('EXISTS', SUSPECTS) == 1 and suspicious_queue(worker[1])
    if suspicious and call('HLEN', HELD) == 0 then
      return claim_suspect(suspicious)
    elseif suspicious and must_become_idle(worker[1]) then
      return nil, {}
    end
    local ready = ready_queues(worker[1])
    if held >= 0 and #ready > 0 then
      limit = math.min(limit, even_share(worker[1], #ready) - held)
      for index = #ready, math.max(0, limit) + 1, -1 do
        ready[index] = nil
        kept_back = true
      end
    end
    if #ready == 0 then
      return nil, {}
    end
    return claim_tasks(ready, not worker[2])
  end

  local function make()
    time, time_text = now()
    local came_back = end_lapsed(time)
    look_for_rare()
    if has_rare then
      came_back = wake_delayed(time) or came_back
      came_back = end_holds(time) or came_back
    end
    if math.floor(time * 1e6) % 8 == 0 then -- Now and then is enough.
      forget_settled(time)
    end
    local number, ids = claim()
    -- A worker that got less than it asked for left the rest to others, or to a later claim.
    if came_back or not parked_all or (kept_back and #ids > 0 and #ids < asked) then
      if anything_ready() then
        ring()
      end
    end
    if siblings_wait then -- They are due at the next claim.
      ring()
    end
    return number, ids
  end

  -- What `claim` returns. Its own arguments begin at `first`, those of its request at `request`.
  function claims.answer(first, request)
    read_arguments(first)
    local before = answered(request)
    if before then
      return before == 'overtaken' and {} or again(before)
    end
    local number, ids = make()
    local reply = number and reply_of(number, ids, read_many('HMGET', TASKS, ids)) or {}
    ids[#ids + 1] = number or '0'
    remember(cmsgpack.pack(ids), request)
    return reply
  end

  return claims
end)()
