#!lua flags=no-writes
-- No ARGV. Returns the ids of tasks that were cancelled and are not settled: for who may have missed
-- that they were.

local ids = {}
for _, field in ipairs(call('HKEYS', NOTES)) do
  ids[#ids + 1] = field:match('^cancel (.*)$')
end
return ids
