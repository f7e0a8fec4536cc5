-- Shared by all scripts. Tasks. Their record: number, priority, failures, crashes, last chance (0 or 1), when they were
-- submitted, and last their queue, which may hold blanks.

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

-- The two of a record that each settlement needs.
local function last_and_queue(record)
  return record:match('^%d+ %S+ %d+ %d+ (%d) %S+ (.*)$')
end

-- The records of tasks, false for one that does not live; their queues are read, too.
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

-- Where a task waits. Equal priorities sort by member, thus by number.
local function place_of(task)
  return base .. (task.last == '1' and ':last:' or ':waiting:') .. task.queue
end

-- SUSPECTS: queues with a limit of one crash in which tasks in their last chance may wait. Such a
-- task ran beside others when their worker died, and may have killed it: it runs alone in a worker,
-- so that a crash of that is its own.

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

-- Claims: a worker's hash has the claim's number, and when it was made, by the task's id.

local function number_of(held_as)
  return held_as and held_as:match('^%d+')
end
