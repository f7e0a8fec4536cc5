#!lua flags=allow-oom
-- needs: loops
-- ARGV: name, token, seconds of its lease, report, the token of a trainer that has ended ('' for none).
-- Takes the loop, or keeps it, unless another trainer has it. Returns its row.

local name, token, lease, report, ended = unpack(ARGV)
local found, time, text = loops.read(name), now()
if not found or found.token == token or found.token == ended or time >= found.beat + found.lease then
  loops.write(name, token, text, lease, report)
end
return loops.row(name, time)
