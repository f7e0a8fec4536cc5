#!lua flags=allow-oom
-- ARGV: name, mark. Returns the highest mark under that name so far, including this one.

local field = 'schedule ' .. ARGV[1]
local found = call('HGET', STORE, field)
if found and tonumber(found) >= tonumber(ARGV[2]) then
  return found
end
call('HSET', STORE, field, ARGV[2])
return ARGV[2]
