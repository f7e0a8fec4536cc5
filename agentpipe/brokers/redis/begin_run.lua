#!lua
-- ARGV: name, record. Returns the stored record: the first one passed for this name.

local key = base .. ':run:' .. ARGV[1]
if call('HSETNX', key, 'record', ARGV[2]) == 1 then
  call('HSET', key, 'tasks', '0')
  call('ZADD', RUNS, numbers(1), ARGV[1])
end
return call('HGET', key, 'record')
