#!lua flags=allow-oom
-- needs: loops
-- ARGV: name, token, lease in seconds, report.
-- Renews the loop if this trainer holds it. Returns its row, or nothing if no trainer holds it.

local name, token, lease, report = unpack(ARGV)
local found, time, text = loops.read(name), now()
if found and found.token == token then
  loops.write(name, token, text, lease, report)
end
return loops.row(name, time)
