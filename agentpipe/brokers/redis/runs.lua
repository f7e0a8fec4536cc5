#!lua flags=no-writes
-- Returns for each run, in the order in which they began, its name and its hash.

local reply = {}
for _, name in ipairs(call('ZRANGE', RUNS, 0, -1)) do
  local fields = redis.pcall('HGETALL', base .. ':run:' .. name)
  reply[#reply + 1] = {name, fields.err and {} or fields}
end
return reply
