#!lua flags=allow-oom
-- needs: ending unclaimed
-- ARGV: ids of tasks. Returns a letter for each: t if its worker is signalled, w if it is waiting
-- or delayed, s if it is settled, u if it is unknown. Publishes the id of each running task to
-- workers.

local letters, signalled = {}, {}
end_lapsed(now())
wake_idle()

local living, settled = read_many('HMGET', TASKS, ARGV), read_many('ZMSCORE', SETTLED, ARGV)
for index, id in ipairs(ARGV) do
  if living[index] and not is_unclaimed(task_of(living[index]), id) then
    letters[index], signalled[#signalled + 1] = 't', id
    later('HSET', NOTES, 'cancel ' .. id, '1')
  else
    letters[index] = living[index] and 'w' or settled[index] and 's' or 'u'
  end
end
flush()
for _, id in ipairs(signalled) do -- One message per id: an id can contain any separator.
  call('PUBLISH', WAKE, id)
end
return table.concat(letters)
