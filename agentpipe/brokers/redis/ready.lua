-- Shared by the scripts that claim: the queues from which a worker can claim.

-- The room left in each open gate (concurrency group) if every chosen queue gets one run.
local spare = {}

-- Up to `wanted` of the worker's ready queues from an index, or from its first `most` queues, least
-- recently served first.
local function served_of(index, serves, wanted, most)
  local found, from = {}, 0
  while #found < wanted and from < (most or math.huge) do
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

-- The same for queues with a gate.
local gated = on_demand(function()
  local gated = {}

  -- Turns of queues from different indexes: when each was last served.
  local turns = {}

  -- Up to `wanted` of the worker's ready queues of a gate. Other workers can serve all of them.
  local function served_of_gate(gate, serves, wanted)
    local index, key = ready_index(gate), base .. ':serves:' .. serves
    if wanted <= 0 or call('ZINTERCARD', 2, index, key, 'LIMIT', 1) == 0 then
      return {}
    end
    return served_of(index, serves, wanted)
  end

  local function sort_by_turn(found)
    table.sort(found, function(one, other)
      return turns[one] < turns[other] or (turns[one] == turns[other] and one < other)
    end)
  end

  local function add_to(found, index, more, limit)
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

  -- The queues of READY and of the gates together. Gates are sorted by the turn of their first
  -- queue, so the scan stops at a gate whose turn comes after all queues found.
  local function with_gated(ungated, serves, limit)
    local found, from = {}, 0
    add_to(found, READY, ungated, limit)
    repeat
      local page = call('ZRANGE', OPEN, from, from + 99, 'WITHSCORES')
      for place = 1, #page, 2 do
        local gate, turn = page[place], tonumber(page[place + 1])
        if #found >= limit and are_all_before(found, turn) then
          return found
        end
        spare[gate] = room_of(gate, 0)
        local more = served_of_gate(gate, serves, math.min(limit, spare[gate]))
        add_to(found, ready_index(gate), more, limit)
      end
      from = from + 100
    until #page == 0
    return found
  end

  -- The `ungated` queues and those of the gates, sorted.
  function gated.joined(ungated, serves, limit)
    local found = with_gated(ungated, serves, limit)
    sort_by_turn(found)
    read_queues(found)
    for _, queue in ipairs(found) do
      local gate = queues[queue][GATE]
      spare[gate] = (spare[gate] or 0) - 1
    end
    return found
  end

  -- The worker's ready queues, checked one by one.
  function gated.among(names, limit)
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

  return gated
end)

local ready_queues = (function()
  local FEW, MOST = 64, 4
  -- An intersection with more queues than this takes longer than a look at a share of the ready ones.
  local MANY, SHARE = 1000, 10

  -- The worker's ready queues. The intersection scans the smaller of the two sets, so the number of
  -- ready queues of other workers does not matter. The server sorts by turn, then by name.
  local function ungated_among(key, limit)
    local found = call('ZINTER', 2, READY, key, 'WEIGHTS', 1, 0)
    for place = #found, limit + 1, -1 do
      found[place] = nil
    end
    return found
  end

  -- Whether starting from the worker's own queues is faster than scanning all ready ones.
  local function are_mostly_others(number)
    return number <= FEW or call('ZCARD', READY) + call('ZCARD', OPEN) > MOST * number
  end

  -- At most `limit` queues that a worker with the digest `serves` can claim from. Gates are checked
  -- only if `may_be_gates`.
  return function(serves, limit, may_be_gates)
    local key, has_gates = base .. ':serves:' .. serves, may_be_gates and call('EXISTS', OPEN) == 1
    local number = call('SCARD', key)
    if are_mostly_others(number) then
      local first = not has_gates and number > MANY and served_of(READY, serves, limit, number / SHARE)
      if first and #first == limit then
        return first
      end
      return has_gates and gated.among(call('SMEMBERS', key), limit) or ungated_among(key, limit)
    end
    local found = served_of(READY, serves, limit)
    return has_gates and gated.joined(found, serves, limit) or found
  end
end)()
