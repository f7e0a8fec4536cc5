#!lua flags=no-writes
-- needs: budgets policies loops
-- ARGV: how many seconds count as recent, and a cursor, at first '0'. Returns:
-- 1: the cursor of the next part of the queues; '0' at the end;
-- 2: fourteen values for each queue of this part: name, the FIELDS below, seconds left of its
-- cooldown, whether it is paused, why, how many tasks are parked, its gate and the gate's limit (''
-- and 0 for none);
-- 3: eight values for each of them that has settled tasks: name, done, failed, evaluated, passed,
-- cost, seconds since the last failure ('' for none), its error;
-- and, with the last part:
-- 4-6: the store's counters by name, number of results, number of dead letters;
-- 7: eight values per live worker: name, host, pid, slots, running, seconds since its last
-- heartbeat, report, whether it drains;
-- 8-9: how many tasks ended recently, age in seconds of the oldest result in the outbox;
-- 10: the sources of collections;
-- 11: six values per budget, see `spendings`;
-- 12-15: the measures, number of group records in the outbox, the policies, the rows of loops;
-- 16: number of unsettled tasks.
-- 2 and 3 are JSON: a client would parse their thousands of values one by one.

local PART = 1000 -- Queues: about 10 ms.
local FIELDS = {COLLECTION, POSITION, N_WAITING, N_DELAYED, N_RUNNING, LIMIT, CONCURRENCY}
local time, limits = look().time, {}
-- The flags of queues can be out of date while a pause is applied; a killed command leaves it so.
local is_behind = pauses.are_incomplete()

local function is_paused(name, queue)
  if is_behind then
    return pauses.is_paused(name, queue[COLLECTION])
  end
  return queue[PAUSED] == 1
end

local function limit_of(gate)
  limits[gate] = limits[gate] or tonumber(call('HGET', GATES, 'limit ' .. gate) or 0)
  return limits[gate]
end

local function tell_depth(depths, name, queue)
  local at, paused = #depths, is_paused(name, queue)
  depths[at + 1] = name
  for place, field in ipairs(FIELDS) do
    depths[at + 1 + place] = queue[field]
  end
  depths[at + 9] = tostring(math.max(0, queue[HELD_UNTIL] - time))
  depths[at + 10] = paused and 1 or 0
  depths[at + 11] = paused and pauses.reason_of(name, queue[COLLECTION]) or ''
  depths[at + 12] = queue[N_PARKED] or 0
  depths[at + 13] = queue[GATE]
  depths[at + 14] = queue[GATE] ~= '' and limit_of(queue[GATE]) or 0
end

local function tell_tally(tallies, name, tally)
  local since = tally[6] > 0 and tostring(math.max(0, time - tally[6])) or ''
  for _, value in ipairs({name, tally[1], tally[2], tally[3], tostring(tally[4]),
    tostring(tally[5]), since, tally[7]}) do
    tallies[#tallies + 1] = value
  end
end

local page = call('HSCAN', QUEUES, ARGV[2], 'COUNT', PART)
local depths, tallies, names = {}, {}, {}
for index = 1, #page[2], 2 do
  names[#names + 1] = page[2][index]
  tell_depth(depths, page[2][index], cmsgpack.unpack(page[2][index + 1]))
end
for index, tally in ipairs(read_many('HMGET', TALLIES, names)) do
  if tally then
    tell_tally(tallies, names[index], cmsgpack.unpack(tally))
  end
end
local part = {page[1], cjson.encode(depths), cjson.encode(tallies)}
if page[1] ~= '0' then
  return part
end

local values = {}
local living = call('ZRANGEBYSCORE', WORKERS, '(' .. time, '+inf', 'WITHSCORES')
for index = 1, #living, 2 do
  local name = living[index]
  local found = call('HMGET', base .. ':worker:' .. name, 'host', 'pid', 'slots', 'lease',
    'report', 'draining')
  for _, value in ipairs({name, found[1], found[2], found[3],
    tostring(call('HLEN', base .. ':held:' .. name)),
    tostring(time - (tonumber(living[index + 1]) - tonumber(found[4]))), found[5] or '',
    found[6] or ''}) do
    values[#values + 1] = value
  end
end

local records = call('SCARD', GROUP_RECORDS)

local function undelivered()
  for _, entry in ipairs(call('ZRANGE', OUTBOX, 0, math.min(records, PORTION))) do
    local settled = call('ZSCORE', SETTLED, entry:match('^%d+ %d+ (.*)$'))
    if settled then
      return tostring(math.max(0, time - settled))
    end
  end
  return '0'
end

for _, value in ipairs({call('HGETALL', STORE), call('HLEN', RESULTS) - records, call('ZCARD', DEAD), values,
  call('ZCOUNT', SETTLED, string.format('%.6f', time - tonumber(ARGV[1])), '+inf'), undelivered(),
  call('HGETALL', SOURCES), budgets.tell_all(), call('HGETALL', MEASURES), records,
  policies.tell(call('SMEMBERS', policies.names)), loops.rows(time), call('HLEN', TASKS)}) do
  part[#part + 1] = value
end
return part
