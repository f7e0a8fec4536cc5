#!lua flags=no-writes
-- ARGV: the first and last microsecond of death. Returns how many letters there are.

return call('ZCOUNT', DEAD, ARGV[1], ARGV[2])
