#!lua flags=allow-oom
-- ARGV: name. Returns 1 if the run existed, else 0.

call('DEL', base .. ':run:' .. ARGV[1])
return call('ZREM', RUNS, ARGV[1])
