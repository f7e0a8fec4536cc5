#!lua flags=no-writes
-- needs: budgets
-- Returns six values for each budget: kind, name, the caps in USD and in tokens, -1 for none, and
-- what is spent of each.

local reply, found = {}, call('HGETALL', BUDGETS)
for index = 1, #found, 2 do
  for _, value in ipairs(tell_budget(found[index], cmsgpack.unpack(found[index + 1]))) do
    reply[#reply + 1] = value
  end
end
return reply
