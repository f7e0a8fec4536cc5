#!lua flags=no-writes
-- needs: loops
-- Returns the row of each loop.

local reply, seen = {}, look()
for _, name in ipairs(call('HKEYS', loops.key)) do
  reply[#reply + 1] = loops.row(name, seen.time) or nil
end
return reply
