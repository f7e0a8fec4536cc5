#!lua flags=allow-oom
-- ARGV: worker, and the numbers of records. Only the worker that borrowed a record drops it.

local LENT = base .. ':lent:' .. ARGV[1]
local labels, dropped, bytes = {}, 0, 0
for index = 2, #ARGV do
  labels[index - 1] = ARGV[index]
end
for index, entry in ipairs(read_many('HMGET', LENT, labels)) do
  if entry then
    dropped, bytes = dropped + 1, bytes + tonumber(entry:match('^%d+ (%d+)'))
    later('HDEL', RESULTS, labels[index])
    later('HDEL', LENT, labels[index])
  end
end
if dropped > 0 then
  flush()
  call('HINCRBY', STORE, 'delivered', dropped)
  call('HINCRBY', STORE, 'outbox_bytes', -bytes)
  if anything_ready() then
    ring() -- The outbox may have been at its mark.
  end
end
