#!lua flags=no-writes
-- needs: budgets policies loops
-- ARGV: how many seconds count as recent. Returns:
-- 1-3: the store's counters by name, number of results, number of dead letters;
-- 4: fourteen values per queue: name, the FIELDS below, seconds left of its cooldown, whether it is
-- paused, why, how many tasks are parked, its gate and the gate's limit ('' and 0 for none);
-- 5: eight values per live worker: name, host, pid, slots, running, seconds since its last
-- heartbeat, report, whether it drains;
-- 6: eight values per queue with settled tasks: name, done, failed, evaluated, passed, cost,
-- seconds since the last failure ('' for none), its error;
-- 7-8: how many tasks ended recently, age in seconds of the oldest result in the outbox;
-- 9: the sources of collections;
-- 10: six values per budget, see `spendings`;
-- 11-14: the measures, number of group records in the outbox, the policies, the rows of loops.
-- 4 and 6 are JSON: a client would parse their thousands of values one by one.

local FIELDS = {COLLECTION, POSITION, N_WAITING, N_DELAYED, N_RUNNING, LIMIT, CONCURRENCY}
local time, values, depths = look().time, {}, {}
local found = call('HGETALL', QUEUES)
for index = 1, #found, 2 do
  local queue = cmsgpack.unpack(found[index + 1])
  depths[#depths + 1] = found[index]
  for _, field in ipairs(FIELDS) do
    depths[#depths + 1] = queue[field]
  end
  depths[#depths + 1] = tostring(math.max(0, queue[HELD_UNTIL] - time))
  depths[#depths + 1] = queue[PAUSED]
  depths[#depths + 1] = queue[PAUSED] == 1 and reason_of(found[index], queue[COLLECTION]) or ''
  depths[#depths + 1] = queue[N_PARKED] or 0
  depths[#depths + 1] = queue[GATE]
  depths[#depths + 1] = queue[GATE] ~= '' and tonumber(call('HGET', GATES, 'limit ' .. queue[GATE]) or 0) or 0
end
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

local tallies, packed = {}, call('HGETALL', TALLIES)
for index = 1, #packed, 2 do
  local tally = cmsgpack.unpack(packed[index + 1])
  local since = tally[6] > 0 and tostring(math.max(0, time - tally[6])) or ''
  for _, value in ipairs({packed[index], tally[1], tally[2], tally[3], tostring(tally[4]),
    tostring(tally[5]), since, tally[7]}) do
    tallies[#tallies + 1] = value
  end
end

local spendings = budgets.tell_all()

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

return {call('HGETALL', STORE), call('HLEN', RESULTS) - records, call('ZCARD', DEAD), cjson.encode(depths), values,
  cjson.encode(tallies),
  call('ZCOUNT', SETTLED, string.format('%.6f', time - tonumber(ARGV[1])), '+inf'), undelivered(),
  call('HGETALL', SOURCES), spendings, call('HGETALL', MEASURES), records,
  policies.tell(call('SMEMBERS', policies.names)), loops.rows(time)}
