#!lua flags=allow-oom
-- ARGV: session, request, seconds to remember it, and ids. Returns how many letters there were.

local before = answered()
if before then
  return before
end

local dropped = 0
for index = 4, #ARGV do
  dropped = dropped + call('ZREM', DEAD, ARGV[index])
  call('DEL', base .. ':dead:' .. ARGV[index])
end
return remember(tostring(dropped))
