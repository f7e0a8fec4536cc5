#!lua flags=allow-oom
-- needs: ending
-- ARGV: ids of tasks. Returns a letter for each: t where its worker is signalled, w where it
-- waits or is delayed, s where it is settled, u where it is unknown. Workers get the id of each
-- running one.

local letters, signalled, held = {}, {}, {}
end_lapsed(now())
wake_idle()

for _, worker in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
  for _, id in ipairs(call('HKEYS', base .. ':held:' .. worker)) do
    held[id] = true
  end
end
local living, settled = read_many('HMGET', TASKS, ARGV), read_many('ZMSCORE', SETTLED, ARGV)
for index, id in ipairs(ARGV) do
  if living[index] and held[id] then
    letters[index], signalled[#signalled + 1] = 't', id
    later('HSET', NOTES, 'cancel ' .. id, '1')
  else
    letters[index] = living[index] and 'w' or settled[index] and 's' or 'u'
  end
end
flush()
for _, id in ipairs(signalled) do -- An id may hold any character, so that each has its message.
  call('PUBLISH', WAKE, id)
end
return table.concat(letters)
