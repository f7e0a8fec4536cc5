#!lua flags=allow-oom
-- ARGV: worker, and numbers of records. Only the worker that leased a record can return it.

local LENT = base .. ':lent:' .. ARGV[1]
for index = 2, #ARGV do
  local entry = call('HGET', LENT, ARGV[index])
  if entry then
    later('HDEL', LENT, ARGV[index])
    later('ZADD', OUTBOX, ARGV[index], entry)
  end
end
flush()
