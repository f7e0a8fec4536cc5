#!lua flags=allow-oom
-- ARGV: name. Returns 1 if there was such a run.

call('DEL', base .. ':run:' .. ARGV[1])
return call('ZREM', RUNS, ARGV[1])
