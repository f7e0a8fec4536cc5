#!lua flags=allow-oom
-- ARGV: worker, lease in seconds, and optionally its report.
-- Returns 1, or 0 if the worker is unknown.

if call('HEXISTS', base .. ':worker:' .. ARGV[1], 'serves') == 0 then
  return 0
end
call('ZADD', WORKERS, now() + tonumber(ARGV[2]), ARGV[1])
call('HDEL', base .. ':worker:' .. ARGV[1], 'awaited')
if ARGV[3] then
  call('HSET', base .. ':worker:' .. ARGV[1], 'report', ARGV[3])
end
return 1
