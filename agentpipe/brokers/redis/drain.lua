#!lua flags=allow-oom
-- ARGV: names of workers. Marks those that there are; the mark goes with the worker's record.

for _, name in ipairs(ARGV) do
  if call('ZSCORE', WORKERS, name) then
    call('HSET', base .. ':worker:' .. name, 'draining', '1')
  end
end
