#!lua flags=no-writes
-- ARGV: the name of a worker. Returns 1 if it is marked by `drain`, else 0.

return call('HEXISTS', base .. ':worker:' .. ARGV[1], 'draining')
