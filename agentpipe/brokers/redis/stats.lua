#!lua flags=no-writes
-- Returns the store's counters by name, the numbers of results and of dead letters, eight values
-- for each queue (name, collection, position, waiting, delayed, running, limit, concurrency) and six
-- for each living worker (name, host, pid, slots, running, seconds since it was heard).

local time, queue_values, worker_values = now(), {}, {}
for _, name in ipairs(call('SMEMBERS', QUEUES)) do
  queue_values[#queue_values + 1] = name
  for _, value in ipairs(call('HMGET', base .. ':queue:' .. name, 'collection', 'position',
    'waiting', 'delayed', 'running', 'limit', 'concurrency')) do
    queue_values[#queue_values + 1] = value
  end
end
local living = call('ZRANGEBYSCORE', WORKERS, '(' .. time, '+inf', 'WITHSCORES')
for index = 1, #living, 2 do
  local name = living[index]
  local found = call('HMGET', base .. ':worker:' .. name, 'host', 'pid', 'slots', 'lease')
  for _, value in ipairs({name, found[1], found[2], found[3],
    tostring(call('HLEN', base .. ':held:' .. name)),
    tostring(time - (tonumber(living[index + 1]) - tonumber(found[4])))}) do
    worker_values[#worker_values + 1] = value
  end
end
return {call('HGETALL', STORE), call('HLEN', RESULTS), call('ZCARD', DEAD), queue_values,
  worker_values}
