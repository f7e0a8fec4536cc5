#!lua flags=allow-oom
-- needs: loops
-- ARGV: name, token, seconds of its lease, report.
-- Keeps the loop where this trainer has it. Returns its row, or nothing where no trainer has it.

local name, token, lease, report = unpack(ARGV)
local found, time, text = loops.read(name), now()
if found and found.token == token then
  loops.write(name, token, text, lease, report)
end
return loops.row(name, time)
