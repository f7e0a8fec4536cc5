-- Shared by all scripts: tasks. A task's record is a string of: number, priority, failures,
-- crashes, last chance (0 or 1), submission time, and queue; only the queue's name can contain
-- spaces.

local function record_of(task)
  return string.format('%s %s %d %d %s %s %s', task.seq, task.priority, task.failures,
    task.crashes, task.last, task.submitted, task.queue)
end

local function task_of(record)
  local seq, priority, failures, crashes, last, submitted, queue =
    record:match('^(%d+) (%S+) (%d+) (%d+) (%d) (%S+) (.*)$')
  return {
    seq = seq, priority = priority, failures = tonumber(failures), crashes = tonumber(crashes),
    last = last, submitted = submitted, queue = queue,
  }
end

-- The fields of a record that every settlement needs: last chance, queue, submission time.
local function last_and_queue(record)
  local last, submitted, queue = record:match('^%d+ %S+ %d+ %d+ (%d) (%S+) (.*)$')
  return last, queue, submitted
end

-- The records of tasks, false for an unknown or settled one; loads their queues.
local function read_records(ids)
  local records, names, seen = read_many('HMGET', TASKS, ids), {}, {}
  for _, record in ipairs(records) do
    if record then
      local _, name = last_and_queue(record)
      if not seen[name] then
        names[#names + 1], seen[name] = name, true
      end
    end
  end
  read_queues(names)
  return records
end

-- The sorted set in which a task waits. Equal priorities sort by member, so by number.
local function place_of(task)
  return base .. (task.last == '1' and ':last:' or ':waiting:') .. task.queue
end

-- SUSPECTS: queues with a limit of one crash that may contain tasks in their last chance. Such a
-- suspect ran beside others when its worker died, and may have killed it. It runs alone in a
-- worker, so that another crash is certainly its own.

local function put_back(id, task)
  later('ZADD', place_of(task), task.priority, task.seq .. id)
  count(task.queue, N_WAITING, 1)
  if task.last == '1' then
    count(task.queue, N_LAST, 1)
    if queues[task.queue][MAX_CRASHES] == 1 then
      later('SADD', SUSPECTS, task.queue)
    end
  end
end

-- Claims: a worker's hash has, by task id, the claim's number and time.

local function number_of(held_as)
  return held_as and held_as:match('^%d+')
end
