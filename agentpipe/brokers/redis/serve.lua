#!lua flags=allow-oom
-- ARGV: digest of queues' names, and some of these names. Notes them for a worker that joins next;
-- they expire if none does.

local ABANDONED_S = 3600
local key = base .. ':serves:' .. ARGV[1]
call('SADD', key, unpack(ARGV, 2))
if call('EXISTS', base .. ':fleet:' .. ARGV[1]) == 0 then
  call('EXPIRE', key, ABANDONED_S)
end
