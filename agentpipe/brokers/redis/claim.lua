#!lua flags=allow-oom
-- needs: ending
-- ARGV: session, request, seconds to remember it, worker, limit, marks of the outbox by records and
-- by bytes, claims held ('-1' where any number may be had), seconds that settled ids are known.
-- Returns seven values for each claim: id, queue, payload, number, failures, crashes, submitted.

local name, asked, held = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[8])
local limit, kept_back = asked, false
local HELD = base .. ':held:' .. name

-- `claims` holds {id, number, task}.
local function told(claims)
  local ids, reply = {}, {}
  for index, claim in ipairs(claims) do
    ids[index] = claim[1]
  end
  local payloads = read_many('HMGET', PAYLOADS, ids)
  for index, claim in ipairs(claims) do
    local task = claim[3]
    for _, value in ipairs({claim[1], task.queue, payloads[index] or '', claim[2],
      tostring(task.failures), tostring(task.crashes), task.submitted}) do
      reply[#reply + 1] = value
    end
  end
  return reply
end

-- What an earlier request was given, as far as the worker still holds it.
local function again(memory)
  local claims = {}
  for _, entry in ipairs(cmsgpack.unpack(memory)) do
    local id, number = entry[1], entry[2]
    if call('HGET', HELD, id) == number then
      claims[#claims + 1] = {id, number, task_of(call('HGET', TASKS, id))}
    end
  end
  return told(claims)
end

local before = answered()
if before then
  return before == 'overtaken' and {} or again(before)
end

local function wake_delayed(time)
  local due = call('ZRANGEBYSCORE', DELAYED, '-inf', time, 'LIMIT', 0, PORTION)
  if #due == 0 then
    return false
  end
  for index, record in ipairs(call('HMGET', TASKS, unpack(due))) do
    local task = task_of(record)
    count(queue_of(task.queue), 'delayed', -1)
    put_back(due[index], task)
  end
  call('ZREM', DELAYED, unpack(due))
  save_queues()
  flush()
  return true
end

local function forget_settled(time)
  local old = call('ZRANGEBYSCORE', SETTLED, '-inf', '(' .. time - tonumber(ARGV[9]),
    'LIMIT', 0, PORTION)
  if #old > 0 then
    call('ZREM', SETTLED, unpack(old))
  end
end

local function above_marks()
  return call('HLEN', RESULTS) >= tonumber(ARGV[6])
    or tonumber(call('HGET', STORE, 'outbox_bytes') or 0) >= tonumber(ARGV[7])
end

-- Queues of the worker with a task and room for a run, the longest unserved first.
local function ready_queues(serves)
  local found, from = {}, 0
  while #found < limit do
    local page = call('ZRANGE', READY, from, from + 99)
    if #page == 0 then
      break
    end
    local served = call('SMISMEMBER', base .. ':serves:' .. serves, unpack(page))
    for index, queue in ipairs(page) do
      if served[index] == 1 and #found < limit then
        found[#found + 1] = queue
      end
    end
    from = from + 100
  end
  return found
end

-- What each worker for the same queues would have if all there were spread evenly.
local function even_share(serves, ready)
  local peers, running = call('SMEMBERS', base .. ':fleet:' .. serves), 0
  for _, peer in ipairs(peers) do
    running = running + call('HLEN', base .. ':held:' .. peer)
  end
  return math.ceil((running + ready) / math.max(1, #peers))
end

-- The next tasks of a queue, and at most one in its last chance to a worker.
local function next_members(queue, room, alone)
  local waiting, last = base .. ':waiting:' .. queue, base .. ':last:' .. queue
  local found = call('ZRANGE', waiting, 0, room - 1)
  local lone = alone and call('ZRANGE', last, 0, 0, 'WITHSCORES') or {}
  if not lone[1] then
    return found, nil
  end
  if #found == room then
    local rival = found[room]
    local mine, its = tonumber(lone[2]), tonumber(call('ZSCORE', waiting, rival))
    if its < mine or (its == mine and rival < lone[1]) then
      return found, nil
    end
    found[room] = nil
  end
  return found, lone[1]
end

local function claim_from(queue, room, number, alone)
  local members, lone = next_members(queue.name, room, alone)
  for _, member in ipairs(members) do
    later('ZREM', base .. ':waiting:' .. queue.name, member)
  end
  if lone then
    later('ZREM', base .. ':last:' .. queue.name, lone)
    call('HSET', base .. ':worker:' .. name, 'last', lone:sub(17))
    members[#members + 1] = lone
  end
  local claims = {}
  for index, member in ipairs(members) do
    claims[index] = {member:sub(17), string.format('%.0f', number + index - 1)}
  end
  count(queue, 'waiting', -#claims)
  count(queue, 'running', #claims)
  queue.turn, queue.changed.turn = number, true
  return claims, lone ~= nil
end

-- An equal share for each queue that is ready, the rest for a later claim.
local function claim_tasks(ready, alone)
  local number, claims, memory, ids = numbers(limit + #ready), {}, {}, {}
  for place, queue_name in ipairs(ready) do
    local queue = queue_of(queue_name)
    local share = math.max(1, math.floor((limit - #claims) / (#ready - place + 1)))
    local room = math.min(share, queue.concurrency - queue.running)
    local found, took_last = claim_from(queue, room, number, alone)
    number, alone = number + #found + 1, alone and not took_last
    kept_back = kept_back or is_ready(queue)
    for _, claim in ipairs(found) do
      claims[#claims + 1] = claim
      ids[#ids + 1] = claim[1]
      memory[#memory + 1] = {claim[1], claim[2]}
      later('HSET', HELD, claim[1], claim[2])
    end
  end
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    claims[index][3] = task_of(record)
  end
  remember(cmsgpack.pack(memory))
  save_queues()
  flush()
  return claims
end

local function claim()
  local worker = call('HMGET', base .. ':worker:' .. name, 'serves', 'last')
  if not worker[1] then
    return {} -- Its lease lapsed: it learns so from its next extend.
  end
  call('HDEL', STORE, 'rung')
  if above_marks() then
    return {}
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
    return {}
  end
  return claim_tasks(ready, not worker[2])
end

local time = now()
local came_back = end_lapsed(time)
came_back = wake_delayed(time) or came_back
forget_settled(time)
local claims = claim()
if #claims == 0 then
  remember(cmsgpack.pack({}))
end
-- Who got something and less than asked for left the rest to others, or for a later claim.
if came_back or (kept_back and #claims > 0 and #claims < asked) then
  if call('EXISTS', READY) == 1 then
    ring()
  end
end
return told(claims)
