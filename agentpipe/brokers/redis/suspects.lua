-- Shared by the scripts that claim, after `ready`. For suspects and SUSPECTS see `tasks`.

local suspects = on_demand(function()
  local suspects = {}

  local function has_room_in_gate(gate)
    return gate == '' or room_of(gate, 0) > 0
  end

  -- A queue with a suspect that can run now, for a worker with the digest `serves`; nil if none.
  function suspects.queue_of(serves)
    local names = call('SMEMBERS', SUSPECTS)
    read_queues(names)
    pauses.correct(names)
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

  -- Whether this worker must claim nothing until it can run a suspect. One worker per digest is
  -- chosen: otherwise a busy fleet would never run a suspect.
  function suspects.make_idle(name, serves)
    local peers = call('SMEMBERS', base .. ':fleet:' .. serves)
    table.sort(peers)
    return peers[1] == name
  end

  -- Whether the first task in its last chance comes before the queue's other tasks.
  function suspects.come_first(queue)
    local last = call('ZRANGE', base .. ':last:' .. queue, 0, 0, 'WITHSCORES')
    local rival = call('ZRANGE', base .. ':waiting:' .. queue, 0, 0, 'WITHSCORES')
    local mine, its = tonumber(last[2]), tonumber(rival[2])
    return mine < its or (mine == its and last[1] < rival[1])
  end

  return suspects
end)
