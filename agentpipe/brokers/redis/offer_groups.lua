#!lua
-- needs: rooms policies groups loops
-- ARGV: session, request, seconds to remember it, target, layout number of a store with groups,
-- loop and token of the calling trainer ('' for none); then for each group: id, need, repairs,
-- size, and for each member: id, payload, priority.
-- Returns 'DEPTH BOUND VERDICTS', with a letter for each group (accepted, duplicate, refused), or
-- 'taken' if the trainer does not hold the loop.

local before = answered()
if before then
  return before
end

if loops.is_others(ARGV[6], ARGV[7]) then
  return 'taken'
end
local target, FIRST, STEP = ARGV[4], 8, 3
local offered, ids, index = {}, {}, FIRST
while index <= #ARGV do
  local group = {name = ARGV[index], need = ARGV[index + 1], repairs = ARGV[index + 2],
    size = tonumber(ARGV[index + 3]), first = index + 4}
  offered[#offered + 1], index = group, group.first + STEP * group.size
  for place = group.first, index - 1, STEP do
    ids[#ids + 1] = ARGV[place]
  end
end

local known = {}
local living, settled = read_many('HMGET', TASKS, ids), read_many('ZMSCORE', SETTLED, ids)
for place, id in ipairs(ids) do
  known[id] = living[place] or settled[place]
end

local stored = call('HMGET', STORE, 'next', 'cursor:' .. target)
local rooms = rooms_of(target, true, #ids, tonumber(stored[2] or 0))
local left = 0
for _, free in ipairs(rooms.free) do
  left = left + free[2]
end

now()
local _, submitted = wall()
local number, accepted, admitted, refused = tonumber(stored[1] or 0), 0, 0, false

local function admit(group, place)
  local at = group.first + STEP * (place - 1)
  local id, payload, priority, queue = ARGV[at], ARGV[at + 1], ARGV[at + 2], next_room(rooms)
  number = number + 1
  local seq = string.format('%016d', number)
  later('HSET', TASKS, id, seq .. ' ' .. priority .. ' 0 0 0 ' .. submitted .. ' ' .. queue)
  later('HSET', PAYLOADS, id, payload)
  later('ZADD', ORDER, seq, id)
  later('ZADD', base .. ':waiting:' .. queue, priority, seq .. id)
  later('HSET', MEMBERS, id, group.name)
  later('HSET', groups.key(group.name), 'member ' .. place, id)
  count(queue, N_WAITING, 1)
  count_in_run(id, 'tasks', 1)
  known[id] = true
end

local function is_known(group)
  if call('EXISTS', groups.key(group.name)) == 1 then
    return true
  end
  for place = group.first, group.first + STEP * (group.size - 1), STEP do
    if known[ARGV[place]] then
      return true
    end
  end
  return false
end

local function verdict_of(group)
  if is_known(group) then
    return 'd'
  elseif group.size > left then
    refused = true
    return 'r'
  end
  call('HSET', groups.key(group.name), 'need', group.need, 'repairs', group.repairs,
    'left', group.size, 'size', group.size, 'good', 0, 'cancelled', '0')
  for place = 1, group.size do
    admit(group, place)
  end
  left, accepted, admitted = left - group.size, accepted + 1, admitted + group.size
  return 'a'
end

local verdicts = {}
for place, group in ipairs(offered) do
  verdicts[place] = verdict_of(group)
end
if accepted > 0 then
  call('HSET', STORE, 'next', string.format('%d', number),
    'cursor:' .. target, string.format('%d', rooms.cursor), 'layout', ARGV[5])
  call('HINCRBY', STORE, 'accepted', admitted)
  call('HINCRBY', STORE, 'groups', accepted)
  save_runs()
  save_queues()
  wake_idle()
end
return remember((refused and depth_and_bound(target, true) or '0 0 ') .. table.concat(verdicts))
