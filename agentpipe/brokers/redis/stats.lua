#!lua flags=no-writes
-- Returns the store's counters by name, the numbers of results and of dead letters, ten values for
-- each queue (its name, the fields below, for how many seconds it is held, and whether it is paused) and six for each living worker: name, host, pid,
-- slots, running, seconds since it was heard.

local FIELDS = {COLLECTION, POSITION, N_WAITING, N_DELAYED, N_RUNNING, LIMIT, CONCURRENCY}
local time, values, depths = now(), {}, {}
local found = call('HGETALL', QUEUES)
for index = 1, #found, 2 do
  local queue = cmsgpack.unpack(found[index + 1])
  depths[#depths + 1] = found[index]
  for _, field in ipairs(FIELDS) do
    depths[#depths + 1] = queue[field]
  end
  depths[#depths + 1] = tostring(math.max(0, queue[HELD_UNTIL] - time))
  depths[#depths + 1] = queue[PAUSED]
end
local living = call('ZRANGEBYSCORE', WORKERS, '(' .. time, '+inf', 'WITHSCORES')
for index = 1, #living, 2 do
  local name = living[index]
  local found = call('HMGET', base .. ':worker:' .. name, 'host', 'pid', 'slots', 'lease')
  for _, value in ipairs({name, found[1], found[2], found[3],
    tostring(call('HLEN', base .. ':held:' .. name)),
    tostring(time - (tonumber(living[index + 1]) - tonumber(found[4])))}) do
    values[#values + 1] = value
  end
end
return {call('HGETALL', STORE), call('HLEN', RESULTS), call('ZCARD', DEAD), depths, values}
