#!lua flags=allow-oom
-- needs: ending
-- ARGV: name, 1 where its process has died. Returns how many tasks went back.

local held = end_worker(ARGV[1], ARGV[2] == '1')
save_queues()
if held > 0 and anything_ready() then
  ring()
end
return held
