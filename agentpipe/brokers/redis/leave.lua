#!lua flags=allow-oom
-- needs: ending
-- ARGV: worker; '1' if a later call has more of the tasks whose runs had started when its process
-- died, '1' if there were several; and these tasks: they count a crash.
-- Returns how many tasks were requeued, and 1 if there are more: call it again, without tasks.

local name, given, ids, held = ARGV[1], {}, {}, 0
for index = 4, #ARGV do
  given[index - 3] = ARGV[index]
end
for index, claim in ipairs(read_many('HMGET', base .. ':held:' .. name, given)) do
  if claim then
    ids[#ids + 1] = given[index]
  end
end
endings.requeue(name, ids, ARGV[3] == '1' and 'shared' or 'sole')
flush()
local is_more = false
if ARGV[2] == '0' then
  endings.begin(name, 'none')
  held, is_more = endings.go_on(name)
end
save_queues()
wake_idle()
return {#ids + held, is_more and 1 or 0}
