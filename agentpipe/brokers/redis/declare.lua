#!lua flags=allow-oom
-- needs: budgets parked policies
-- Declares a part of a declaration; see declaring.py. ARGV: layout number, '1' to declare only
-- unknown queues, number of sources, number of budgets, JSON list of the collections' policies (see
-- policies.declare), number of the declaration ('' if this part is all of it), JSON list of the
-- collections that are complete with this part;
-- for each source: collection, '1' if a worker declares it, when its file and its config changed,
-- fingerprint ('-' if unknown), place;
-- for each budget: collection, caps in USD and tokens (-1 for none);
-- for each queue: name, limit, concurrency, max_crashes, position (-1 outside a group), collection
-- and gate ('' for none), limit of the gate.
-- Returns how many queues are new; '1' if more queues leave their groups: repeat the call; and 1 if
-- there is more to apply: call `apply_changes`.

local STEP, SOURCE_STEP, BUDGET_STEP = 8, 6, 3
local LEAVING = 1000 -- Queues that leave a group in one call.
local only_new, rings, names, new = ARGV[2] == '1', {}, {}, 0

if call('EXISTS', STORE) == 0 then
  -- Numbers start at the current time, so an emptied store never repeats its old numbers.
  local time = call('TIME')
  call('HSET', STORE, 'layout', ARGV[1], 'next', time[1] * 1000000 + time[2])
end

local function leave_ring(name, queue)
  call('ZREM', base .. ':ring:' .. queue[COLLECTION], name)
  call('ZREM', base .. ':room:' .. queue[COLLECTION], name)
end

local function differs(queue, limits)
  for index, value in ipairs(limits) do
    if queue[index] ~= value then
      return true
    end
  end
  return false
end

-- Stop counting the queue's running tasks for its old gate; `save_queues` counts them for the new
-- one.
local function leave_gate(name, queue)
  note_gate(queue[GATE], -found_running[name])
  call('ZREM', ready_index(queue[GATE]), name)
  found_running[name] = 0
end

local function limit_gate(gate, limit)
  if call('HGET', GATES, 'limit ' .. gate) ~= limit then
    call('HSET', GATES, 'limit ' .. gate, limit)
    note_gate(gate, 0)
  end
end

local function change(name, limits)
  local queue = queues[name]
  if not queue then
    queue, new = {}, new + 1
    queues[name] = queue
    for state = N_WAITING, RUN_S do
      queue[state] = 0
    end
    found_running[name] = 0
  else
    leave_gate(name, queue)
    if queue[POSITION] >= 0 then
      leave_ring(name, queue)
    end
  end
  for index, value in ipairs(limits) do
    queue[index] = value
  end
  queue[PAUSED] = pauses.is_paused(name, queue[COLLECTION]) and 1 or 0
  if queue[POSITION] >= 0 then
    call('ZADD', base .. ':ring:' .. queue[COLLECTION], queue[POSITION], name)
  end
  found_turn[name], found_room[name], changed[name] = false, false, true -- Index it again.
  if is_ready(queue) then
    wake_all()
  end
end

-- Sources. A sender whose file is older than the group's does not change the group.
local first_budget, outdated = 8 + SOURCE_STEP * tonumber(ARGV[3]), {}
local first_queue = first_budget + BUDGET_STEP * tonumber(ARGV[4])

local function note_source(role, collection, source)
  local field = role .. ' ' .. collection
  if call('HGET', SOURCES, field) ~= source then
    call('HSET', SOURCES, field, source)
  end
end

local function read_source(index)
  local collection, serves = ARGV[index], ARGV[index + 1] == '1'
  local source = table.concat(ARGV, ' ', index + 2, index + 5)
  note_source(serves and 'worker' or 'sender', collection, source)
  local group = call('HGET', SOURCES, 'group ' .. collection)
  local edited = group and tonumber(group:match('^%d+'))
  outdated[collection] = not serves and edited and tonumber(ARGV[index + 2]) < edited
  if not outdated[collection] then
    note_source('group', collection, source)
  end
end

for index = 8, first_budget - 1, SOURCE_STEP do
  read_source(index)
end

-- A budget that was set since the last declaration stays until a file declares a different one.
local budget_changed = false

local function declare_budget(index)
  local collection, cap_usd, cap_tokens = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local holder, declared = 'collection ' .. collection, cap_usd .. ' ' .. cap_tokens
  local known = budgets.read(holder)
  if outdated[collection] or declared == (known and known[DECLARED] or '-1 -1') then
    return
  end
  budget_changed = budgets.limit(holder, cap_usd, cap_tokens, declared) or budget_changed
end

for index = first_budget, first_queue - 1, BUDGET_STEP do
  declare_budget(index)
end

local policy_changed = false
for _, each in ipairs(cjson.decode(ARGV[5])) do
  if not outdated[each[1]] then
    policy_changed = policies.declare(unpack(each)) or policy_changed
  end
end

-- Of two declarations of a collection at the same time, the one that began last counts. STORE has
-- the number of the declaration whose first part came last, until its last part.
local number, superseded = ARGV[6], {}

local function is_superseded(collection, position)
  if superseded[collection] == nil then
    local field = 'declaring:' .. collection
    if number == '' then
      call('HDEL', STORE, field)
    elseif position == 0 then
      call('HSET', STORE, field, number)
    end
    superseded[collection] = number ~= '' and call('HGET', STORE, field) ~= number
  end
  return superseded[collection]
end

local function add_to_ring(name, collection, position)
  local ring = rings[collection] or {members = {}, total = 0, first = position}
  ring.members[name], ring.total, ring.last = true, ring.total + 1, position
  rings[collection] = ring
end

local function declare(index)
  local name, collection, gate = ARGV[index], ARGV[index + 5], ARGV[index + 6]
  local limits = {}
  if outdated[collection] then
    return
  end
  for offset = 1, 4 do
    limits[offset] = tonumber(ARGV[index + offset])
  end
  if limits[POSITION] >= 0 and not only_new and is_superseded(collection, limits[POSITION]) then
    if queues[name] then
      return
    end
    limits[POSITION] = -1
  end
  limits[COLLECTION], limits[GATE] = collection, gate
  if gate ~= '' and not (only_new and queues[name]) then
    limit_gate(gate, ARGV[index + 7])
  end
  if not queues[name] or (not only_new and differs(queues[name], limits)) then
    change(name, limits)
  end
  if limits[POSITION] >= 0 and not only_new then
    add_to_ring(name, collection, limits[POSITION])
  end
end

for index = first_queue, #ARGV, STEP do
  names[#names + 1] = ARGV[index]
end
read_queues(names)
for index = first_queue, #ARGV, STEP do
  declare(index)
end

local complete = {}
for _, collection in ipairs(cjson.decode(ARGV[7])) do
  complete[collection] = true
end

-- Remove from a group what has a position of this part, or a later one if the group is complete,
-- and is not declared. Returns whether there is more.
local function remove_others(collection, ring)
  local last, most = complete[collection] and '+inf' or ring.last, ring.total + LEAVING
  local found = call('ZRANGEBYSCORE', base .. ':ring:' .. collection, ring.first, last,
    'LIMIT', 0, most)
  read_queues(found)
  for _, name in ipairs(found) do
    if not ring.members[name] then
      leave_ring(name, queues[name])
      queues[name][POSITION], found_room[name], changed[name] = -1, false, true
    end
  end
  return #found == most
end

local more = false
for collection, ring in pairs(rings) do
  if remove_others(collection, ring) then
    more = true
  elseif complete[collection] and number ~= '' then
    call('HDEL', STORE, 'declaring:' .. collection)
  end
end
if budget_changed then
  pauses.begin('flags')
end
if policy_changed then
  policies.unpark_all('0')
  policies.wake_workers()
end
save_queues()
if a_gate_opened or (budget_changed and anything_ready()) then
  wake_all()
end

return {new, more and '1' or '', call('EXISTS', CHANGES, POLICY_CHANGES) > 0 and 1 or 0}
