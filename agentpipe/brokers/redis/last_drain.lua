#!lua flags=no-writes
-- ARGV: host, and seconds that a drain is remembered. Returns when the host or the broker was last
-- drained, in Unix microseconds; 0 if never, or longer ago than that.

local noted, time = call('HMGET', DRAINS, '', ARGV[1]), call('TIME')
local last = math.max(tonumber(noted[1] or 0), tonumber(noted[2] or 0))
local oldest = time[1] * 1e6 + time[2] - tonumber(ARGV[2]) * 1e6
return string.format('%d', last >= oldest and last or 0)
