-- Shared by the scripts that claim: delays and cooldowns that are over. Both return whether there were any.

local due = on_demand(function()
  local due = {}

  function due.wake_delayed(time)
    local ids = call('ZRANGEBYSCORE', DELAYED, '-inf', time, 'LIMIT', 0, PORTION)
    if #ids == 0 then
      return false
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
    return true
  end

  function due.end_holds(time)
    local over = call('ZRANGEBYSCORE', HOLDS, '-inf', time, 'LIMIT', 0, PORTION)
    if #over == 0 then
      return false
    end
    read_queues(over)
    for _, queue in ipairs(over) do
      queues[queue][HELD_UNTIL], changed[queue] = 0, true
    end
    call('ZREM', HOLDS, unpack(over))
    save_queues()
    return true
  end

  return due
end)
