#!lua flags=no-writes
-- ARGV: a host. Returns when it or the broker was drained last, 0 for never.

local noted = call('HMGET', DRAINS, '', ARGV[1])
return string.format('%d', math.max(tonumber(noted[1] or 0), tonumber(noted[2] or 0)))
