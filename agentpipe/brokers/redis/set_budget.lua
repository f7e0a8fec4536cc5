#!lua flags=allow-oom
-- needs: budgets
-- ARGV: 'collection NAME' or 'run NAME', caps in USD and tokens (-1 for none).

local holder = ARGV[1]
local run = holder:match('^run (.*)$')

-- Make parked tasks of the run due now.
local function end_parking()
  local ids, prefix = {}, run .. '/'
  for _, id in ipairs(call('ZRANGEBYSCORE', DELAYED, FOREVER, '+inf')) do
    if id:sub(1, #prefix) == prefix then
      ids[#ids + 1] = id
    end
  end
  for index, record in ipairs(read_records(ids)) do
    later('ZADD', DELAYED, 0, ids[index])
    if record then
      local _, queue = last_and_queue(record)
      count(queue, N_PARKED, -1)
    end
  end
end

if budgets.limit(holder, ARGV[2], ARGV[3]) then
  if not run then
    apply_pauses()
  elseif call('SISMEMBER', SPENT, holder) == 0 then
    end_parking()
  end
  save_queues()
  ring()
end
