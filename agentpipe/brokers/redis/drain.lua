#!lua flags=allow-oom
-- ARGV: names of workers. Marks those that are registered; the mark ends with the worker's record.

for _, name in ipairs(ARGV) do
  local serves = call('HGET', base .. ':worker:' .. name, 'serves')
  if serves then
    call('HSET', base .. ':worker:' .. name, 'draining', '1')
    call('ZREM', idle_index(serves), name)
  end
end
