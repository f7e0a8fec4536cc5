#!lua flags=no-writes
-- ARGV: the kind, and the first and last microsecond of death. Returns how many letters there are.

return call('ZCOUNT', base .. ':' .. ARGV[1], ARGV[2], ARGV[3])
