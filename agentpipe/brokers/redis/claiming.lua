-- Shared by the scripts that claim, after `ending`, `policies`, `ready`, `suspects`, `parking` and
-- `due`.

local claims = (function()
  local claims = {}

  local name, asked, limit, held, HELD, most_records, most_bytes, known_s, time, time_text
  local serves
  local kept_back, may_take, share = false, false, false

  local function read_arguments(first)
    name, asked, held = ARGV[first], tonumber(ARGV[first + 1]), tonumber(ARGV[first + 4])
    most_records, most_bytes = tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
    known_s = tonumber(ARGV[first + 5])
    limit, HELD = asked, base .. ':held:' .. name
  end

  -- Whether rare state exists (delays, cooldowns, gates and others); one command checks all of it.
  local has_rare

  local MOST_PEERS = 16

  local function look_for_rare()
    has_rare = call('EXISTS', DELAYED, HOLDS, SUSPECTS, OPEN, NOTES, SPENT, FOLLOWERS, CHANGES) > 0
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

  -- The reply to a repeated request: its claims that the worker still holds.
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

  -- The even share of each worker with the same queues; a sample estimates it in a large fleet.
  local function even_share(ready)
    local fleet, running = base .. ':fleet:' .. serves, 0
    local total, peers = call('SCARD', fleet), call('SRANDMEMBER', fleet, MOST_PEERS)
    for _, peer in ipairs(peers) do
      running = running + call('HLEN', base .. ':held:' .. peer)
    end
    return math.ceil((running * total / math.max(1, #peers) + ready) / math.max(1, total))
  end

  -- Take the next tasks of a queue. With `alone`, one of them can be in its last chance. Also
  -- returns whether one is.
  local function take_members(queue, room, alone)
    local members, lone = {}, alone and queues[queue][N_LAST] > 0 and queues[queue][MAX_CRASHES] > 1
    if lone then
      local others = queues[queue][N_WAITING] - queues[queue][N_LAST]
      lone = others < room or suspects.come_first(queue)
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

  local parked_all, may_park = true, false

  -- Like `take_members`, but parks tasks that may not start and takes others instead.
  local function take_affordable(queue, room, alone)
    local found, lone = take_members(queue, room, alone)
    if not has_rare or call('EXISTS', SPENT, FOLLOWERS) == 0 then
      return found, lone
    end
    local kept, seen = {}, 0
    may_park = true
    while #found > 0 do
      for index, member in ipairs(found) do
        seen = seen + 1
        local is_lone = lone and seen == 1
        local is_parked = parking.park_if_spent(queue, member)
          or (not is_lone and parking.park_if_ahead(queue, member))
        if not is_parked then
          kept[#kept + 1] = member
        elseif is_lone then
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

  -- Claim an equal share from each ready queue; leave the rest to a later claim.
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

  -- Claim only the suspect of this queue.
  local function claim_suspect(queue)
    local turn = numbers(1)
    local number = string.format('%d', turn)
    local member = call('ZPOPMIN', base .. ':last:' .. queue)[1]
    local id = member:sub(17)
    if parking.park_if_spent(queue, member) then
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

  -- Those of the found queues that are ready, by flags that are up to date.
  local function still_ready(found)
    local kept = {}
    for _, queue in ipairs(found) do
      local gate = queues[queue][GATE]
      if is_ready(queues[queue]) then
        kept[#kept + 1] = queue
      elseif gate ~= '' then
        spare[gate] = spare[gate] + 1
      end
    end
    save_queues()
    return kept
  end

  -- Whether a change is not applied yet.
  local is_changing = false

  local function go_on_with_changes()
    if call('EXISTS', CHANGES) == 1 then
      is_changing = pauses.go_on() == 1 or is_changing
      save_queues()
    end
  end

  local function go_on_with_policies()
    if call('EXISTS', POLICY_CHANGES) == 1 then
      is_changing = policy_changes.go_on()
      save_queues()
    end
  end

  local MOST_LOOKS = 8

  -- The worker's ready queues.
  local function queues_to_claim()
    local found = ready_queues(serves, limit, has_rare)
    if not is_changing or not pauses.are_incomplete() then
      return found
    end
    for _ = 1, MOST_LOOKS do
      pauses.set_flags(found)
      local kept = still_ready(found)
      if #kept > 0 or #found == 0 then
        return kept
      end
      found = ready_queues(serves, limit, has_rare)
    end
    return {}
  end

  local function claim()
    local worker = call('HMGET', base .. ':worker:' .. name, 'serves', 'last', 'alone')
    serves = worker[1]
    if not serves then
      return nil, {} -- Its lease expired: its next heartbeat reports that.
    end
    local stored = call('HMGET', STORE, 'rung', 'outbox_bytes')
    if stored[1] then
      call('HDEL', STORE, 'rung')
    end
    if above_marks(tonumber(stored[2] or 0)) then
      call('HSET', STORE, 'outbox_full', '1')
      return nil, {}
    elseif worker[3] then
      return nil, {}
    end
    local suspicious = has_rare and call('EXISTS', SUSPECTS) == 1 and suspects.queue_of(serves)
    if suspicious and call('HLEN', HELD) == 0 then
      return claim_suspect(suspicious)
    elseif suspicious and suspects.make_idle(name, serves) then
      return nil, {}
    end
    may_take = true
    local ready = queues_to_claim()
    if held >= 0 and #ready > 0 then
      limit = math.min(limit, even_share(#ready) - held)
      share = limit < asked
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

  -- Update the index of idle workers after a claim of `got` tasks.
  local function note_idle(got)
    if may_take and got < asked then
      if call('ZADD', idle_index(serves), call('HLEN', HELD), name) == 1 then
        call('SADD', IDLE, serves)
      end
    elseif serves then
      call('ZREM', idle_index(serves), name)
    end
  end

  local function make()
    time, time_text = now()
    end_lapsed(time)
    look_for_rare()
    if has_rare then
      go_on_with_policies()
      due.wake_delayed(time)
      due.end_holds(time)
      go_on_with_changes()
    end
    if math.floor(time * 1e6) % 8 == 0 then -- Every eighth call on average is enough.
      forget_settled(time)
    end
    local number, ids = claim()
    note_idle(#ids)
    -- A worker that got fewer tasks than it asked for left the rest to others, or to a later claim.
    local left = kept_back and #ids > 0 and #ids < asked
    if (left or not parked_all) and anything_ready() then
      waking.wake_next(serves, share and parked_all)
    end
    if is_changing and serves then -- An idle worker goes on at once.
      waking.wake_next(serves, false)
    end
    if may_park and parking.siblings_wait() then -- Unparked tasks are due at the next claim.
      waking.wake_next(serves, false)
    end
    return number, ids
  end

  -- The reply of `claim`. Its own arguments begin at `first`, the request's at `request`.
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
