#!lua flags=allow-oom
-- needs: ending parked policies groups
-- ARGV: session, request, seconds to remember it; then for each answer: task id, result, outcome,
-- and increments of its collection's measures as a JSON list.
-- Returns a letter for each: d for done, n if the task is not unclaimed.

local before = answered()
if before then
  return before
end

local done, ended, seen, collections = {}, {}, {}, {}
for index = 4, #ARGV, 4 do
  local id, letter = ARGV[index], 'n'
  local record = not seen[id] and call('HGET', TASKS, id)
  if record then
    local task = task_of(record)
    read_queues({task.queue})
    local state, due = nil, tonumber(call('ZSCORE', DELAYED, id) or 0)
    if call('ZREM', place_of(task), task.seq .. id) == 1 then
      state = N_WAITING
    elseif call('ZREM', DELAYED, id) == 1 then
      state = N_DELAYED
    end
    if state then
      if state == N_DELAYED then
        count_delayed(task.queue, due, -1)
        parked.remove(id)
      else
        count(task.queue, N_WAITING, -1)
      end
      if state == N_WAITING and task.last == '1' then
        count(task.queue, N_LAST, -1)
      end
      ended[#ended + 1] = {id, ARGV[index + 1], ARGV[index + 2], task.queue, ''}
      collections[queues[task.queue][COLLECTION]] = true
      measure(task.queue, queues[task.queue][COLLECTION], cjson.decode(ARGV[index + 3]))
      count_in_run(id, 'done  ' .. ARGV[index + 2], 1)
      seen[id], letter = true, 'd'
    end
  end
  done[#done + 1] = letter
end
-- What was answered may have been unparked without having begun: others may start in its place.
policies.replace_unparked(collections)
local _, time_text = now()
put_in_outbox(ended, time_text, true)
save_measures()
save_runs()
save_queues()
if may_count(ended) then
  groups.count_members(ended)
end
wake_idle()
return remember(table.concat(done))
