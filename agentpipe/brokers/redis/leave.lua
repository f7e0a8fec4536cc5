#!lua flags=allow-oom
-- needs: ending
-- ARGV: worker; and, if its process died, the tasks whose runs had started. Returns how many tasks
-- were requeued.

local begun = {}
for index = 2, #ARGV do
  begun[index - 1] = ARGV[index]
end
local held = endings.end_worker(ARGV[1], begun)
save_queues()
wake_idle()
return held
