#!lua flags=allow-oom
-- needs: ending
-- ARGV: worker, number of claims that it holds, id and number of each claim, '1' if the results
-- that it forwards are known, and their numbers.
-- Returns how many tasks and how many results were returned, and the indexes, from 1, of the
-- worker's claims that the store does not know. Returns a portion of many tasks: repeat the call.

local name, total = ARGV[1], tonumber(ARGV[2])
local HELD, LENT = base .. ':held:' .. name, base .. ':lent:' .. name

local function as_pairs(values)
  local found = {}
  for index = 1, #values, 2 do
    found[values[index]] = values[index + 1]
  end
  return found
end

-- Add the unknown claims to the reply, and leave in `known` what the worker does not hold.
local function match(known, reply)
  for index = 1, total do
    local id, number = ARGV[1 + 2 * index], ARGV[2 + 2 * index]
    if number_of(known[id]) == number then
      known[id] = nil
    else
      reply[#reply + 1] = index
    end
  end
end

local function requeue_others(known)
  local ids = {}
  for id in pairs(known) do
    if #ids == PORTION then
      break
    end
    ids[#ids + 1] = id
  end
  endings.requeue(name, ids, 'none')
  return #ids
end

local function free_others()
  local first = 4 + 2 * total
  if ARGV[first - 1] ~= '1' then
    return 0
  end
  local lent, freed = as_pairs(call('HGETALL', LENT)), 0
  for index = first, #ARGV do
    lent[ARGV[index]] = nil
  end
  for label, entry in pairs(lent) do
    later('HDEL', LENT, label)
    later('ZADD', OUTBOX, label, entry)
    freed = freed + 1
  end
  return freed
end

if call('HEXISTS', base .. ':worker:' .. name, 'serves') == 0 then
  return {0, 0}
end
local known, reply = as_pairs(call('HGETALL', HELD)), {0, 0}
match(known, reply)
reply[1], reply[2] = requeue_others(known), free_others()
save_queues()
wake_idle()
return reply
