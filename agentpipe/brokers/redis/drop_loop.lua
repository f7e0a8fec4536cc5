#!lua flags=allow-oom
-- needs: loops
-- ARGV: name, token. Releases the loop if this trainer holds it.

local found = loops.read(ARGV[1])
if found and found.token == ARGV[2] then
  call('HDEL', loops.key, ARGV[1])
end
return 1
