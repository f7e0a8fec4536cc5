#!lua flags=allow-oom
-- ARGV: session, request, seconds to remember it, and ids of undeliverable results.
-- Returns how many it moved back into the outbox.

local before = answered()
if before then
  return before
end

local KIND, again, bytes, records = base .. ':undeliverable', 0, 0, 0
local GROUP = '{"kind":"group"'
for index = 4, #ARGV do
  local id = ARGV[index]
  local result = call('HGET', KIND .. ':' .. id, 'result')
  if result then
    local label = string.format('%d', numbers(1))
    call('HSET', RESULTS, label, result)
    call('ZADD', OUTBOX, label, string.format('%s %d %s', label, #result, id))
    call('ZREM', KIND, id)
    call('DEL', KIND .. ':' .. id)
    again, bytes = again + 1, bytes + #result
    if result:sub(1, #GROUP) == GROUP then
      records = records + call('SADD', GROUP_RECORDS, label)
    end
  end
end
if again > 0 then
  call('HINCRBY', STORE, 'undeliverable', records - again)
  call('HINCRBY', STORE, 'outbox_bytes', bytes)
end
return remember(tostring(again))
