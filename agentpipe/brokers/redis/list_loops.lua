#!lua flags=no-writes
-- needs: loops
-- Returns for each loop its name, the token of its trainer, for how many seconds that is silent, and
-- what it has said.

local reply, seen = {}, look()
for _, name in ipairs(call('HKEYS', loops.key)) do
  local found = loops.read(name)
  if found then
    local silent = string.format('%.6f', math.max(0, seen.time - found.beat))
    reply[#reply + 1] = {name, found.token, silent, found.report}
  end
end
return reply
