#!lua flags=allow-oom
-- needs: ending
-- ARGV: name. Returns how many tasks went back.

local held = end_worker(ARGV[1], false)
save_queues()
if held > 0 and anything_ready() then
  ring()
end
return held
