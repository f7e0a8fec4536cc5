-- Shared by the scripts that claim: ends delays and cooldowns that are over.

local due = on_demand(function()
  local due = {}

  function due.wake_delayed(time)
    local ids = call('ZRANGEBYSCORE', DELAYED, '-inf', time, 'LIMIT', 0, PORTION)
    if #ids == 0 then
      return
    end
    for index, record in ipairs(read_records(ids)) do
      if record then
        local task = task_of(record)
        count(task.queue, N_DELAYED, -1)
        put_back(ids[index], task)
      end
    end
    call('ZREM', DELAYED, unpack(ids))
    save_queues()
  end

  function due.end_holds(time)
    local over = call('ZRANGEBYSCORE', HOLDS, '-inf', time, 'LIMIT', 0, PORTION)
    if #over == 0 then
      return
    end
    read_queues(over)
    for _, queue in ipairs(over) do
      queues[queue][HELD_UNTIL], changed[queue] = 0, true
    end
    call('ZREM', HOLDS, unpack(over))
    save_queues()
  end

  return due
end)
