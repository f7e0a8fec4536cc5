#!lua flags=allow-oom
-- needs: ending
-- ARGV: name, host, pid, slots, lease in seconds, digest of its queues' names, their number, and the
-- names that `serve` did not note. Returns 1; or 0 to repeat it all: if the server does not have all
-- names, since the last worker with these queues left meanwhile, or if claims of this worker, whose
-- lease expired, are still being requeued.

local name, lease, serves = ARGV[1], tonumber(ARGV[5]), ARGV[6]
if call('HEXISTS', base .. ':worker:' .. name, 'ends') == 1 then
  endings.go_on(name)
  save_queues()
  wake_idle()
  return 0
end
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
