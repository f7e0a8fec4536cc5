-- Shared by the scripts that end tasks (after `ending` and `policies`) and by `offer_groups`.
-- MEMBERS has the group of each open member, by task id. A group's hash has its need and its
-- counters ('left': open members), and under 'member N' the id of each member's latest task.

-- Whether any of the `ended` tasks may count in a group or for a policy.
local function may_count(ended)
  return #ended > 0 and call('EXISTS', MEMBERS, UNITS) > 0
end

local groups = on_demand(function()
  local groups = {}

  local FIRST_OF_ALL = '-18014398509481984' -- Sorts before every possible priority.

  function groups.key(name)
    return base .. ':group:' .. name
  end

  function groups.read(name)
    local found = call('HMGET', groups.key(name), 'need', 'repairs', 'left', 'good', 'cancelled',
      'size', 'oldest', 'newest')
    return {
      name = name, need = tonumber(found[1]), repairs = tonumber(found[2]),
      left = tonumber(found[3]), good = tonumber(found[4]), cancelled = found[5],
      size = tonumber(found[6]), oldest = tonumber(found[7]), newest = tonumber(found[8]),
    }
  end

  local function save_group(group)
    local values = {'left', group.left, 'good', group.good, 'repairs', group.repairs,
      'cancelled', group.cancelled}
    if group.oldest then
      values[9], values[10] = 'oldest', string.format('%.0f', group.oldest)
      values[11], values[12] = 'newest', string.format('%.0f', group.newest)
    end
    call('HSET', groups.key(group.name), unpack(values))
  end

  local function member_ids(group)
    local fields = {}
    for place = 1, group.size do
      fields[place] = 'member ' .. place
    end
    return read_many('HMGET', groups.key(group.name), fields)
  end

  -- A waiting member is claimed before all other tasks, and not run. The worker of a running one is
  -- signalled.
  local function cancel_member(id, task)
    call('HSET', NOTES, 'cancel ' .. id, '1')
    task.priority = FIRST_OF_ALL
    call('HSET', TASKS, id, record_of(task))
    local due = call('ZSCORE', DELAYED, id)
    if due then
      count_delayed(task.queue, tonumber(due), -1)
      count(task.queue, N_DELAYED, 1)
      call('ZADD', DELAYED, 0, id)
      parked.remove(id)
    elseif call('ZSCORE', place_of(task), task.seq .. id) then
      call('ZADD', place_of(task), FIRST_OF_ALL, task.seq .. id)
    else
      call('PUBLISH', WAKE, id)
    end
  end

  -- Cancel the open members. Returns how many were not cancelled before.
  function groups.cancel_rest(group)
    local ids, cancelled = member_ids(group), 0
    local counted = read_many('HMGET', MEMBERS, ids)
    for index, record in ipairs(read_records(ids)) do
      if record and counted[index] == group.name
        and call('HEXISTS', NOTES, 'cancel ' .. ids[index]) == 0 then
        cancel_member(ids[index], task_of(record))
        cancelled = cancelled + 1
      end
    end
    return cancelled
  end

  -- Replace an ended member by another task in the same queue, even a full one: the group waits for
  -- it. `member_end` asks for that: 'repair PRIORITY LENGTH ID PAYLOAD'. Does nothing if it asks for
  -- none, or if that id was submitted before.
  local function repair(group, id, queue, member_end)
    local priority, length, rest = member_end:match('^repair (%S+) (%d+) (.*)$')
    if not priority then
      return
    end
    local again, payload = rest:sub(1, length), rest:sub(length + 2)
    if call('HEXISTS', TASKS, again) == 1 or call('ZSCORE', SETTLED, again) then
      return
    end
    local seq, _, submitted = string.format('%016d', numbers(1)), wall()
    call('HSET', TASKS, again, seq .. ' ' .. priority .. ' 0 0 0 ' .. submitted .. ' ' .. queue)
    call('HSET', PAYLOADS, again, payload)
    call('ZADD', ORDER, seq, again)
    call('ZADD', base .. ':waiting:' .. queue, priority, seq .. again)
    count(queue, N_WAITING, 1)
    call('HINCRBY', STORE, 'accepted', 1)
    count_in_run(again, 'tasks', 1)
    for place, member in ipairs(member_ids(group)) do
      if member == id then
        call('HSET', groups.key(group.name), 'member ' .. place, again)
      end
    end
    call('HSET', MEMBERS, again, group.name)
    group.left, group.repairs = group.left + 1, group.repairs - 1
  end

  local function status_of(group)
    if group.good >= group.need then
      return 'complete'
    end
    return group.cancelled == '1' and 'cancelled' or 'short'
  end

  local function group_record(group)
    local versions = ''
    if group.oldest then
      versions = string.format('%.0f,%.0f', group.oldest, group.newest)
    end
    return '{"kind":"group","schema":1,"group_id":' .. cjson.encode(group.name)
      .. ',"status":"' .. status_of(group) .. '","good":' .. group.good
      .. ',"members":' .. cjson.encode(member_ids(group)) .. ',"versions":[' .. versions .. ']}'
  end

  -- Put its record into the outbox and delete the group. The ids of its tasks stay in SETTLED.
  local function end_group(group)
    local record, label = group_record(group), string.format('%d', numbers(1))
    call('HSET', RESULTS, label, record)
    call('ZADD', OUTBOX, label, string.format('%s %d %s', label, #record, group.name))
    call('SADD', GROUP_RECORDS, label)
    call('HINCRBY', STORE, 'outbox_bytes', #record)
    call('HINCRBY', STORE, 'groups', -1)
    call('HINCRBY', STORE, 'group:' .. status_of(group), 1)
    local goods = status_of(group) == 'complete' and 'group:counted' or 'group:wasted'
    call('HINCRBY', STORE, goods, group.good)
    call('DEL', groups.key(group.name))
    policies.end_unit('group ' .. group.name, status_of(group) == 'complete')
  end

  local function count_member(name, id, outcome, queue, member_end)
    local group, good = groups.read(name), member_end:match('^good') ~= nil
    local oldest, newest = member_end:match('^good (%d+) (%d+)$')
    group.left, group.good = group.left - 1, group.good + (good and 1 or 0)
    group.cancelled = outcome == 'cancelled' and '1' or group.cancelled
    if not good then
      call('HINCRBY', STORE, 'group:wasted', 1)
    end
    if oldest then
      group.oldest = math.min(group.oldest or tonumber(oldest), tonumber(oldest))
      group.newest = math.max(group.newest or tonumber(newest), tonumber(newest))
    end
    if group.good < group.need and group.repairs > 0 then
      repair(group, id, queue, member_end)
    end
    save_group(group)
    if good and group.good == group.need then
      groups.cancel_rest(group)
    end
    if group.left == 0 then
      end_group(group)
    end
  end

  -- Count ended tasks. Entries of `ended` are {id, result, outcome, queue, member_end}; the last is
  -- how it ended as a member, see settle.lua. Call it after everything else is written.
  function groups.count_members(ended)
    local ids, has_units = {}, call('EXISTS', UNITS) == 1
    for index, each in ipairs(ended) do
      ids[index] = each[1]
    end
    for index, name in ipairs(read_many('HMGET', MEMBERS, ids)) do
      if name then
        local id, _, outcome, queue, member_end = unpack(ended[index])
        call('HDEL', MEMBERS, id)
        count_member(name, id, outcome, queue, member_end)
      elseif has_units then
        policies.end_unit('task ' .. ids[index], ended[index][3] == 'ok')
      end
    end
    policies.replace_ended()
    save_runs()
    save_queues()
  end

  return groups
end)
