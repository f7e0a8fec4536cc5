#!lua flags=allow-oom
-- needs: ending
-- ARGV: worker; then for each result: number, queue, collection, outcome, and the sink's reason.
-- Only the worker that leased a result can set it aside. The last result of an id replaces earlier
-- ones.

local LENT, KIND = base .. ':lent:' .. ARGV[1], base .. ':undeliverable'
local bytes, aside, records = 0, 0, 0

local function set_aside(index, entry)
  local label, size, id = entry:match('^(%d+) (%d+) (.*)$')
  call('HSET', KIND .. ':' .. id, 'queue', ARGV[index + 1], 'collection', ARGV[index + 2],
    'outcome', ARGV[index + 3], 'reason', ARGV[index + 4], 'payload', '',
    'result', call('HGET', RESULTS, label) or '')
  call('ZADD', KIND, endings.moment_of_death(), id)
  call('HDEL', RESULTS, label)
  call('HDEL', LENT, label)
  bytes, aside = bytes + tonumber(size), aside + 1
  records = records + call('SREM', GROUP_RECORDS, label)
end

for index = 2, #ARGV, 5 do
  local entry = call('HGET', LENT, ARGV[index])
  if entry then
    set_aside(index, entry)
  end
end
if aside > 0 then
  call('HINCRBY', STORE, 'undeliverable', aside - records)
  call('HINCRBY', STORE, 'outbox_bytes', -bytes)
  waking.wake_after_full_outbox()
end
