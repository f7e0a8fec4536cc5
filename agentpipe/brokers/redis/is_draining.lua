#!lua flags=no-writes
-- ARGV: worker. Returns 1 if `drain` marked it, else 0.

return call('HEXISTS', base .. ':worker:' .. ARGV[1], 'draining')
