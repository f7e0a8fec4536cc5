#!lua flags=no-writes
-- needs: unclaimed
-- ARGV: number to start after, limit, maximum bytes, '1' to filter by queue, and the queues.
-- Returns the number after which the next page starts ('' at the end), then five values for each
-- unclaimed task: number, id, queue, payload, submission time. Scans a bounded number of tasks.

local limit, max_bytes, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), nil
if ARGV[4] == '1' then
  wanted = {}
  for index = 5, #ARGV do
    wanted[ARGV[index]] = true
  end
end

local after, reply, found, bytes = '', {''}, 0, 0
local ids = call('ZRANGEBYSCORE', ORDER, '(' .. ARGV[1], '+inf', 'LIMIT', 0, CHUNK)
for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
  local id, task = ids[index], task_of(record)
  after = task.seq
  if (not wanted or wanted[task.queue]) and is_unclaimed(task, id) then
    local payload = call('HGET', PAYLOADS, id) or ''
    for _, value in ipairs({task.seq, id, task.queue, payload, task.submitted}) do
      reply[#reply + 1] = value
    end
    found, bytes = found + 1, bytes + #payload
    if found >= limit or bytes >= max_bytes then
      break
    end
  end
end
reply[1] = after
return reply
