#!lua flags=allow-oom
-- ARGV: worker, and numbers of records. Only the worker that leased a record can drop it.

local LENT = base .. ':lent:' .. ARGV[1]
local labels, gone, bytes = {}, {}, 0
for index = 2, #ARGV do
  labels[index - 1] = ARGV[index]
end
for index, entry in ipairs(read_many('HMGET', LENT, labels)) do
  if entry then
    gone[#gone + 1], bytes = labels[index], bytes + tonumber(entry:match('^%d+ (%d+)'))
    later('HDEL', RESULTS, labels[index])
    later('HDEL', LENT, labels[index])
  end
end

-- How many of these were group records, which do not count as results.
local function forget_records(labels)
  local number = 0
  for first = 1, #labels, CHUNK do
    number = number + call('SREM', GROUP_RECORDS,
      unpack(labels, first, math.min(first + CHUNK - 1, #labels)))
  end
  return number
end

if #gone > 0 then
  flush()
  call('HINCRBY', STORE, 'delivered', #gone - forget_records(gone))
  call('HINCRBY', STORE, 'outbox_bytes', -bytes)
  waking.wake_after_full_outbox()
end
