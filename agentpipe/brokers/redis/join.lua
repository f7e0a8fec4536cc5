#!lua flags=allow-oom
-- needs: ending
-- ARGV: name, host, pid, slots, lease in seconds, digest of its queues' names, their number, and the
-- names that `serve` did not note. Returns 1, or 0 if the server does not have all names: note them
-- again. The last worker with these queues can leave meanwhile, which removes the names.

local name, lease, serves = ARGV[1], tonumber(ARGV[5]), ARGV[6]
for index = 8, #ARGV do
  later('SADD', base .. ':serves:' .. serves, ARGV[index])
end
flush()
if call('SCARD', base .. ':serves:' .. serves) < tonumber(ARGV[7]) then
  return 0
end
call('PERSIST', base .. ':serves:' .. serves)
local before = call('HGET', base .. ':worker:' .. name, 'serves')
if before and before ~= serves then
  endings.leave_fleet(name, before)
end
call('HSET', base .. ':worker:' .. name, 'host', ARGV[2], 'pid', ARGV[3], 'slots', ARGV[4],
  'lease', ARGV[5], 'serves', serves)
call('SADD', base .. ':fleet:' .. serves, name)
call('ZADD', WORKERS, now() + lease, name)
call('HDEL', base .. ':worker:' .. name, 'awaited')
call('HSET', CLOCK, 'lease', ARGV[5])
return 1
