#!lua flags=no-writes
-- ARGV: a host, and the seconds that a drain is remembered. Returns when it or the broker was drained
-- last, in Unix microseconds; 0 for never, and for longer ago.

local noted, time = call('HMGET', DRAINS, '', ARGV[1]), call('TIME')
local last = math.max(tonumber(noted[1] or 0), tonumber(noted[2] or 0))
local oldest = time[1] * 1e6 + time[2] - tonumber(ARGV[2]) * 1e6
return string.format('%d', last >= oldest and last or 0)
