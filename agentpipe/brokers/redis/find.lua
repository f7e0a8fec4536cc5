#!lua flags=no-writes
-- ARGV: 'unclaimed' and ids of tasks; or 'claimed', '1' to filter by queue, and the queues.
-- Returns five values for each task: number, id, queue, payload, submission time.

local reply = {}

local function tell(ids, is_wanted)
  local payloads = read_many('HMGET', PAYLOADS, ids)
  for index, record in ipairs(read_many('HMGET', TASKS, ids)) do
    local task = record and task_of(record)
    if task and is_wanted(task, ids[index]) then
      for _, value in ipairs({task.seq, ids[index], task.queue, payloads[index] or '',
        task.submitted}) do
        reply[#reply + 1] = value
      end
    end
  end
end

local function is_unclaimed(task, id)
  return call('ZSCORE', place_of(task), task.seq .. id) or call('ZSCORE', DELAYED, id)
end

if ARGV[1] == 'unclaimed' then
  local ids = {}
  for index = 2, #ARGV do
    ids[#ids + 1] = ARGV[index]
  end
  tell(ids, is_unclaimed)
  return reply
end

local wanted = ARGV[2] == '1' and {} or nil
for index = 3, #ARGV do
  wanted[ARGV[index]] = true
end
for _, worker in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
  tell(call('HKEYS', base .. ':held:' .. worker), function(task)
    return not wanted or wanted[task.queue]
  end)
end
return reply
