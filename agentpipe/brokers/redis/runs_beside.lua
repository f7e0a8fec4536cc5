#!lua flags=no-writes
-- needs: held
-- ARGV: a queue, its gate ('' for none), and what `claims_read` takes. Returns what `claims_read`
-- returns, then four values for each running task of the queue or the gate: id, queue, worker, and
-- since when.

local name, gate, seen, reply = ARGV[1], ARGV[2], look(), {0, 0}

local function is_beside(queue)
  return queue == name or (gate ~= '' and queues[queue] and queues[queue][GATE] == gate)
end

local function queues_of(ids)
  local found, names = {}, {}
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    local _, queue = last_and_queue(record or '')
    found[index], names[#names + 1] = queue or false, queue
  end
  if gate ~= '' then
    read_queues(names)
  end
  return found
end

reply[1], reply[2] = claims_read(3, function(worker, ids, claims)
  for index, queue in ipairs(queues_of(ids)) do
    if queue and is_beside(queue) then
      local since = as_wall(claims[index]:match(' (.*)$'), seen)
      for _, value in ipairs({ids[index], queue, worker, since}) do
        reply[#reply + 1] = value
      end
    end
  end
end)
return reply
