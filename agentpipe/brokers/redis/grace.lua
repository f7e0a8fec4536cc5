#!lua flags=allow-oom
-- The server was away and no worker could reach it: every lease starts again.

local time = now()
for _, name in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
  local lease = call('HGET', base .. ':worker:' .. name, 'lease')
  call('ZADD', WORKERS, 'GT', time + tonumber(lease or 0), name)
end
