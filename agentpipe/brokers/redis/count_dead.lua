#!lua flags=no-writes
-- ARGV: kind, first and last microsecond of death. Returns the number of letters.

return call('ZCOUNT', base .. ':' .. ARGV[1], ARGV[2], ARGV[3])
