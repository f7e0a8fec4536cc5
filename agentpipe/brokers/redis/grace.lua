#!lua flags=allow-oom
-- The server was away and no worker could reach it: restart every lease. It may have come back with
-- an older state: skip all numbers that it may have given out since.

local time = now()
if tonumber(call('HGET', STORE, 'next') or time * 1e6) < time * 1e6 then
  call('HSET', STORE, 'next', string.format('%d', time * 1e6))
end
for _, name in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
  local lease = call('HGET', base .. ':worker:' .. name, 'lease')
  call('ZADD', WORKERS, 'GT', time + tonumber(lease or 0), name)
end
