#!lua flags=allow-oom
-- ARGV: session, request, seconds to remember it, kind, and ids. Returns how many letters existed.

local before = answered()
if before then
  return before
end

local LETTERS, dropped = base .. ':' .. ARGV[4], 0
for index = 5, #ARGV do
  dropped = dropped + call('ZREM', LETTERS, ARGV[index])
  call('DEL', LETTERS .. ':' .. ARGV[index])
end
return remember(tostring(dropped))
