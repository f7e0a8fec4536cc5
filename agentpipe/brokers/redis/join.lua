#!lua flags=allow-oom
-- needs: ending
-- ARGV: name, host, pid, slots, lease in seconds, digest of its queues' names, and these names.

local name, lease, serves = ARGV[1], tonumber(ARGV[5]), ARGV[6]
local before = call('HGET', base .. ':worker:' .. name, 'serves')
if before and before ~= serves then
  endings.leave_fleet(name, before)
end
call('HSET', base .. ':worker:' .. name, 'host', ARGV[2], 'pid', ARGV[3], 'slots', ARGV[4],
  'lease', ARGV[5], 'serves', serves)
call('SADD', base .. ':fleet:' .. serves, name)
for index = 7, #ARGV do
  later('SADD', base .. ':serves:' .. serves, ARGV[index])
end
flush()
call('ZADD', WORKERS, now() + lease, name)
call('HDEL', base .. ':worker:' .. name, 'awaited')
call('HSET', CLOCK, 'lease', ARGV[5])
