#!lua flags=no-writes
-- No ARGV. Returns the ids of tasks that were cancelled and are not settled: for workers that
-- may have missed the signal.

local ids = {}
for _, field in ipairs(call('HKEYS', NOTES)) do
  ids[#ids + 1] = field:match('^cancel (.*)$')
end
return ids
