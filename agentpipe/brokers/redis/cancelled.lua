#!lua flags=no-writes
-- Returns the ids of cancelled tasks that are not settled, for workers that may have missed the
-- signal.

local ids = {}
for _, field in ipairs(call('HKEYS', NOTES)) do
  ids[#ids + 1] = field:match('^cancel (.*)$')
end
return ids
