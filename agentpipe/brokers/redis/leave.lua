#!lua flags=allow-oom
-- needs: ending
-- ARGV: name; where its process has died, the tasks whose runs had begun. Returns how many went back.

local begun = {}
for index = 2, #ARGV do
  begun[index - 1] = ARGV[index]
end
local held = endings.end_worker(ARGV[1], begun)
save_queues()
wake_idle()
return held
