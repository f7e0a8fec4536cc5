#!lua flags=allow-oom
-- needs: loops
-- ARGV: name, token, lease in seconds, report, token of a trainer that has ended ('' for none).
-- Takes or renews the loop unless another trainer holds it. Returns its row.

local name, token, lease, report, ended = unpack(ARGV)
local found, time, text = loops.read(name), now()
if not found or found.token == token or found.token == ended or time >= found.beat + found.lease then
  loops.write(name, token, text, lease, report)
end
return loops.row(name, time)
