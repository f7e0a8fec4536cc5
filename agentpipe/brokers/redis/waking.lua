-- Shared by all scripts: which workers to wake when more tasks can be claimed than before. A worker
-- that got fewer tasks than it asked for is idle until it claims again. IDLE has the queue digests
-- of idle workers; the index of each digest has its idle workers, by how many tasks they hold. A
-- woken worker leaves the index, so a frozen worker gets no second wake-up. Every worker also polls
-- once a second.

local function idle_index(serves)
  return base .. ':idle:' .. serves
end

local waking = on_demand(function()
  local waking = {}

  -- Whether some listener can only be woken by a broadcast: a worker of an older version, or one
  -- that has not joined yet.
  local function are_woken_together()
    local hearing = call('PUBSUB', 'NUMSUB', WAKE, LISTENING)
    return hearing[2] > hearing[4]
  end

  -- Wake up to `most` idle workers of these queues; returns how many received it.
  local function wake_peers(serves, most)
    local woken = 0
    while woken < most do
      local popped = call('ZPOPMIN', idle_index(serves), math.min(most - woken, PORTION))
      if #popped == 0 then
        call('SREM', IDLE, serves)
        break
      end
      for place = 1, #popped, 2 do
        woken = woken + math.min(1, call('PUBLISH', WAKE .. ':' .. popped[place], ''))
      end
    end
    return woken
  end

  -- How many tasks a worker with this digest can claim from queues `names`, and from which of them.
  local function claimable_by(serves, numbers, names)
    local total, its = 0, {}
    local served = read_many('SMISMEMBER', base .. ':serves:' .. serves, names)
    for place, name in ipairs(names) do
      if served[place] == 1 and numbers[name] > 0 then
        total, its[#its + 1] = total + numbers[name], name
      end
    end
    return total, its
  end

  -- Wake a worker for each of the tasks in `numbers` (by queue), up to `most` workers.
  local function wake_for(numbers, most)
    local names = {}
    for name in pairs(numbers) do
      names[#names + 1] = name
    end
    for _, serves in ipairs(#names > 0 and call('SMEMBERS', IDLE) or {}) do
      local total, its = claimable_by(serves, numbers, names)
      local woken = wake_peers(serves, math.min(total, most))
      most = most - woken
      for _, name in ipairs(its) do
        local part = math.min(numbers[name], woken)
        numbers[name], woken = numbers[name] - part, woken - part
      end
    end
  end

  -- The gains of queues without a gate, by queue; and the names of the other gaining queues, by
  -- gate.
  local function gains()
    local numbers, gated = {}, {}
    for name, number in pairs(gained) do
      local gate = queues[name][GATE]
      if number > 0 and gate == '' then
        numbers[name] = number
      elseif number > 0 then
        gated[gate] = gated[gate] or {}
        table.insert(gated[gate], name)
        gate_gained[gate] = (gate_gained[gate] or 0) + number
      end
    end
    return numbers, gated
  end

  -- Any queue of a gate can use the gate's room.
  local function wake_for_gate(gate, number, names)
    local room = room_of(gate, 0)
    local most, numbers = math.min(number, room), {}
    for _, queue in ipairs(call('ZRANGE', ready_index(gate), 0, 99)) do
      numbers[queue] = most
    end
    for _, queue in ipairs(names) do
      numbers[queue] = most
    end
    wake_for(numbers, most)
  end

  function waking.wake_for_gains()
    if are_woken_together() then
      return wake_all()
    end
    local numbers, gated = gains()
    wake_for(numbers, math.huge)
    for gate, number in pairs(gate_gained) do
      if number > 0 then
        wake_for_gate(gate, number, gated[gate] or {})
      end
    end
  end

  -- Wake a worker for tasks that a claim left although its worker could have had them. Tasks that
  -- it left for the fair `share` of other workers need no wake-up: those workers were woken with
  -- it.
  function waking.wake_next(serves, share)
    if are_woken_together() then
      wake_all()
    elseif not share then
      wake_peers(serves, 1)
    end
  end

  -- Results left the outbox: if it was full, every worker can claim again.
  function waking.wake_after_full_outbox()
    local was_full = call('HDEL', STORE, 'outbox_full') == 1
    if (was_full or are_woken_together()) and anything_ready() then
      wake_all()
    end
  end

  return waking
end)

local function any_above_zero(numbers)
  for _, number in pairs(numbers) do
    if number > 0 then
      return true
    end
  end
  return false
end

-- Call it last: wake as many idle workers as there are newly claimable tasks.
local function wake_idle()
  if any_above_zero(gained) or any_above_zero(gate_gained) then
    waking.wake_for_gains()
  end
end
