#!lua flags=no-writes
-- needs: held unclaimed
-- ARGV: 'unclaimed' and ids of tasks; or 'claimed', maximum bytes, and what `claims_read` takes.
-- Returns five values for each task: number, id, queue, payload, submission time; for claimed tasks
-- after what `claims_read` returns.

local reply, bytes = {}, 0

local function tell(ids, is_wanted)
  local payloads = read_many('HMGET', PAYLOADS, ids)
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    local task = record and task_of(record)
    if task and is_wanted(task, ids[index]) then
      local payload = payloads[index] or ''
      bytes = bytes + #payload
      for _, value in ipairs({task.seq, ids[index], task.queue, payload, task.submitted}) do
        reply[#reply + 1] = value
      end
    end
  end
end

if ARGV[1] == 'unclaimed' then
  local ids = {}
  for index = 2, #ARGV do
    ids[#ids + 1] = ARGV[index]
  end
  tell(ids, is_unclaimed)
  return reply
end

local function is_any()
  return true
end

reply = {0, 0}
reply[1], reply[2] = claims_read(3, function(_, ids)
  tell(ids, is_any)
  return bytes >= tonumber(ARGV[2])
end)
return reply
