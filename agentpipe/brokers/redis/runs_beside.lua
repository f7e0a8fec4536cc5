#!lua flags=no-writes
-- needs: held
-- ARGV: a queue, its gate ('' for none), and what `claims_read` takes. Returns what `claims_read`
-- returns, then four values for each running task of the queue or the gate: id, queue, worker, and
-- since when.

local name, gate, seen, reply = ARGV[1], ARGV[2], look(), {0, 0}

local function is_beside(queue)
  return queue == name or (gate ~= '' and queues[queue] and queues[queue][GATE] == gate)
end

local function queues_of(held)
  local ids, found, names = {}, {}, {}
  for index = 1, #held, 2 do
    ids[#ids + 1] = held[index]
  end
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    local _, queue = last_and_queue(record or '')
    found[index], names[#names + 1] = queue or false, queue
  end
  if gate ~= '' then
    read_queues(names)
  end
  return found
end

reply[1], reply[2] = claims_read(3, function(worker, held)
  for index, queue in ipairs(queues_of(held)) do
    if queue and is_beside(queue) then
      local since = as_wall(held[2 * index]:match(' (.*)$'), seen)
      for _, value in ipairs({held[2 * index - 1], queue, worker, since}) do
        reply[#reply + 1] = value
      end
    end
  end
end)
return reply
