-- Shared by all scripts. Whom to wake where more can be claimed than before. A worker that got less than
-- it asked for is idle until it claims again: IDLE has the digests of the queues of such workers, and the
-- index of a digest has them by how many tasks they hold. Who is woken leaves it, so that a worker that is
-- frozen gets no second wake-up. Each worker looks once a second whether it is woken or not.

local function idle_index(serves)
  return base .. ':idle:' .. serves
end

local waking = on_demand(function()
  local waking = {}

  -- Whether a listener can only be woken with all others: a worker of an earlier version, or one that has not
  -- joined yet.
  local function are_woken_together()
    local hearing = call('PUBSUB', 'NUMSUB', WAKE, LISTENING)
    return hearing[2] > hearing[4]
  end

  -- Wake up to `most` idle workers of these queues; how many hear it.
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

  -- Of these queues, how many tasks a worker can claim that serves them; and which ones they are.
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

  -- Wake a worker for each task, of `numbers` by queue, `most` in all.
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

  -- What was gained in queues without a gate, by queue; the names of the others, by gate.
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

  -- Any queue of a gate may take what there is room for.
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
      return ring()
    end
    local numbers, gated = gains()
    wake_for(numbers, math.huge)
    for gate, number in pairs(gate_gained) do
      if number > 0 then
        wake_for_gate(gate, number, gated[gate] or {})
      end
    end
  end

  -- For what a claim has left, though its worker may have had it. What was left for the others' `share` is
  -- for those that were woken with it.
  function waking.wake_next(serves, share)
    if are_woken_together() then
      ring()
    elseif not share then
      wake_peers(serves, 1)
    end
  end

  -- Results have left the outbox: where it was at its mark, any worker may claim again.
  function waking.wake_after_full_outbox()
    local was_full = call('HDEL', STORE, 'outbox_full') == 1
    if (was_full or are_woken_together()) and anything_ready() then
      ring()
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

-- After all else: wake as many idle workers as can claim what could not be claimed before.
local function wake_idle()
  if any_above_zero(gained) or any_above_zero(gate_gained) then
    waking.wake_for_gains()
  end
end
