#!lua flags=allow-oom
-- ARGV: host ('' for the whole broker), and seconds that a drain is remembered.
-- Records a drain now, in Unix microseconds, and deletes expired ones.

local wall_us = wall() * 1e6
local noted = call('HGETALL', DRAINS)
for index = 1, #noted, 2 do
  if tonumber(noted[index + 1]) < wall_us - tonumber(ARGV[2]) * 1e6 then
    call('HDEL', DRAINS, noted[index])
  end
end
local before = tonumber(call('HGET', DRAINS, ARGV[1]) or 0)
call('HSET', DRAINS, ARGV[1], string.format('%d', math.max(wall_us, before + 1)))
