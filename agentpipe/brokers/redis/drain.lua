#!lua flags=allow-oom
-- ARGV: names of workers. Marks those that are registered; the mark ends with the worker's record.

for _, name in ipairs(ARGV) do
  if call('ZSCORE', WORKERS, name) then
    call('HSET', base .. ':worker:' .. name, 'draining', '1')
    call('ZREM', idle_index(call('HGET', base .. ':worker:' .. name, 'serves')), name)
  end
end
