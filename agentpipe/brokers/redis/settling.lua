-- Shared by the scripts that settle, after `ending`, `budgets`, `policies`, `groups`, `breaker` and
-- `holding`.

local settlements = (function()
  local settlements = {}

  -- Positions in a settlement, see settle.lua.
  local ACTION, ID, WORKER, NUMBER, OUTCOME = 1, 2, 3, 4, 5
  local CONFIG, RUN_PLACE, WAIT_PLACE, COUNTS, MORE = 6, 7, 8, 9, 10
  local first_bytes, all
  local MAX_ERROR_BYTES = 1200
  local RUNS_IN_MEAN = 8
  local time, time_text
  local done, ended = {}, {}
  local has_budgets, has_streaks = false, false

  -- Whether rare state exists (budgets, streaks, notes); one command checks all of it.
  local has_rare

  local function bytes_at(index)
    return index and ARGV[first_bytes + index - 1] or ''
  end

  -- The claims in question, as stored, by worker and task id.
  local function claims_held()
    local wanted, held = {}, {}
    for _, each in ipairs(all) do
      local ids = wanted[each[WORKER]] or {}
      ids[#ids + 1], wanted[each[WORKER]] = each[ID], ids
    end
    for worker, ids in pairs(wanted) do
      held[worker] = {}
      for index, number in ipairs(read_many('HMGET', base .. ':held:' .. worker, ids)) do
        held[worker][ids[index]] = number
      end
    end
    return held
  end

  -- Actions other than `complete`.
  local returns = on_demand(function()
    local returns = {}

    function returns.bury(each, result)
      local id, queue = each[ID], each.queue
      call('HSET', base .. ':dead:' .. id, 'queue', queue, 'collection', queues[queue][COLLECTION],
        'payload', call('HGET', PAYLOADS, id) or '', 'result', result,
        'outcome', each[OUTCOME], 'reason', each[MORE].reason or '')
      call('ZADD', DEAD, endings.moment_of_death(), id)
    end

    local function cool_down(each)
      local delay, names = each[MORE].delay or 0, each[MORE].queues or {}
      if delay <= 0 then
        return
      end
      call('HINCRBYFLOAT', NOTES, 'cooled ' .. each[ID], string.format('%.17g', delay))
      hold({each.queue}, delay)
      hold(names, delay)
    end

    -- Apply an action that requeues the task.
    function returns.put_back(each)
      local action, id, queue, record = each[ACTION], each[ID], each.queue, each.record
      local delay = each[MORE].delay or 0
      if each[MORE].reason then
        later('HSET', NOTES, 'error ' .. id, each[MORE].reason)
      end
      if action == 'retry' or (action == 'release' and delay > 0) then
        if action == 'retry' then
          local task = task_of(record)
          task.failures = task.failures + 1
          later('HSET', TASKS, id, record_of(task))
        end
        local cancelled = call('HEXISTS', NOTES, 'cancel ' .. id) == 1
        later('ZADD', DELAYED, cancelled and time or time + delay, id)
        count(queue, N_DELAYED, 1)
        return
      end
      local task = task_of(record)
      if action == 'crash' then
        endings.count_crash(id, task)
      end
      put_back(id, task)
      if action == 'cooldown' then
        cool_down(each)
      end
    end

    return returns
  end)

  -- Update the moving average of the queue's run duration.
  local function note_run(each)
    local took, queue = math.max(0, time - each.claimed), queues[each.queue]
    queue[RUN_S] = queue[RUN_S] == 0 and took or queue[RUN_S] + (took - queue[RUN_S]) / RUNS_IN_MEAN
  end

  local function settle(each, index)
    local action, id, more = each[ACTION], each[ID], each[MORE]
    count(each.queue, N_RUNNING, -1)
    if more.payload then
      call('HSET', PAYLOADS, id, bytes_at(more.payload))
    end
    if action ~= 'complete' and action ~= 'bury' then
      return returns.put_back(each)
    end
    local result = bytes_at(index)
    if each[RUN_PLACE] >= 0 then
      note_run(each)
    end
    if action == 'bury' then
      returns.bury(each, result)
    end
    ended[#ended + 1] = {id, result, each[OUTCOME], each.queue, bytes_at(more.member)}
  end

  -- Per queue: done, failed, evaluated, passed, cost, time of the last failure (0 for never), and
  -- its error.
  local tallies = {}

  local function add_to_tally(each)
    local tally, more = tallies[each.queue] or {0, 0, 0, 0, 0, 0, ''}, each[MORE]
    local action, outcome = each[ACTION], each[OUTCOME]
    if action == 'complete' or action == 'bury' then
      local place = outcome == 'ok' and 1 or 2
      tally[place] = tally[place] + (outcome == 'cancelled' and 0 or 1)
    end
    if more.reward then
      tally[3], tally[4] = tally[3] + 1, tally[4] + more.reward
    end
    tally[5] = tally[5] + (more.usd or 0)
    if more.reason then
      tally[6], tally[7] = time, more.reason:sub(1, MAX_ERROR_BYTES)
    end
    tallies[each.queue] = tally
  end

  local function count_result(each)
    local id, action, more = each[ID], each[ACTION], each[MORE]
    if not run_of(id) then
      return
    end
    if action == 'complete' or action == 'bury' then
      count_in_run(id, 'done ' .. each[CONFIG] .. ' ' .. each[OUTCOME], 1)
    end
    if more.reward then
      count_in_run(id, 'rewarded', 1)
      count_in_run(id, 'rewards', more.reward)
    end
    count_in_run(id, 'usd', more.usd or 0)
  end

  local bounds -- Of the buckets, in seconds.

  -- Count one duration in a histogram: in its bucket and in the sum.
  local function observe(numbers, place, seconds)
    bounds = bounds or {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
    local bucket = 1
    while bounds[bucket] and seconds > bounds[bucket] do
      bucket = bucket + 1
    end
    add_at(numbers, place + bucket - 1, 1)
    add_at(numbers, place + #bounds + 1, seconds)
  end

  local function measure_settled(each)
    local numbers = measure(each.queue, queues[each.queue][COLLECTION], each[COUNTS])
    if each[RUN_PLACE] >= 0 then
      observe(numbers, each[RUN_PLACE], math.max(0, time - each.claimed))
    end
    if each[WAIT_PLACE] >= 0 then
      local waited = tonumber(as_wall(each.claimed, moment)) - tonumber(each.submitted)
      observe(numbers, each[WAIT_PLACE], math.max(0, waited))
    end
  end

  local function save_tallies()
    local names = {}
    for queue in pairs(tallies) do
      names[#names + 1] = queue
    end
    for index, packed in ipairs(read_many('HMGET', TALLIES, names)) do
      local queue = names[index]
      local tally = tallies[queue]
      local before = packed and cmsgpack.unpack(packed) or {0, 0, 0, 0, 0, 0, ''}
      for place = 1, 5 do
        before[place] = before[place] + tally[place]
      end
      if tally[6] > 0 then
        before[6], before[7] = tally[6], tally[7]
      end
      later('HSET', TALLIES, queue, cmsgpack.pack(before))
    end
  end

  -- Count a run for the breaker; returns whether it paused the collection.
  local function count_run(each)
    local collection, digest = queues[each.queue][COLLECTION], each[MORE].digest or ''
    local succeeded = each[ACTION] == 'complete' and each[OUTCOME] == 'ok'
    if collection == '' or (digest == '' and not succeeded) then
      return false
    elseif digest == '' and not (has_rare or has_streaks) then
      return false -- There is no streak to reset.
    end
    has_streaks = true
    return breaker.count(collection, digest, each[MORE].limit or 0, each[MORE].pause or '')
  end

  local function charge_holders(each)
    local usd, tokens = each[MORE].usd or 0, each[MORE].tokens or 0
    if usd > 0 or tokens > 0 then
      budgets.charge('collection ' .. queues[each.queue][COLLECTION], usd, tokens)
      budgets.charge('run ' .. (each[ID]:match('^([^/]+)/') or ''), usd, tokens)
    end
  end

  -- Settle a task that is still claimed; returns its letter in the reply.
  local function settle_held(each, index)
    local last
    last, each.queue, each.submitted = last_and_queue(each.record)
    later('HDEL', base .. ':held:' .. each[WORKER], each[ID])
    if last == '1' then
      call('HDEL', base .. ':worker:' .. each[WORKER], 'last', 'alone')
    end
    settle(each, index)
    add_to_tally(each)
    if has_budgets then
      charge_holders(each)
    end
    count_result(each)
    measure_settled(each)
    return count_run(each) and 't' or 'd'
  end

  local function carry_out()
    local held, ids = claims_held(), {}
    for index, each in ipairs(all) do
      ids[index] = each[ID]
    end
    local records = read_records(ids)
    for index, each in ipairs(all) do
      local theirs, id = held[each[WORKER]], each[ID]
      local number, claimed = (theirs[id] or ''):match('^(%d+) (.*)$')
      if records[index] and number == each[NUMBER] then
        each.record, each.claimed, theirs[id] = records[index], tonumber(claimed), nil
        done[index] = settle_held(each, index)
      else
        done[index] = 'l'
      end
    end
  end

  local function save()
    put_in_outbox(ended, time_text, has_rare)
    save_tallies()
    save_measures()
    save_runs()
    if has_streaks then
      breaker.save()
    end
    if has_budgets then
      budgets.save_costs()
    end
    save_queues()
    if may_count(ended) then
      groups.count_members(ended)
    end
  end

  -- The reply of `settle`. The settlements' arguments begin at `first`, the request's at `request`.
  function settlements.answer(first, request)
    local before = answered(request)
    if before then
      return before
    end
    first_bytes, all = first + 1, cjson.decode(ARGV[first])
    time, time_text = now()
    has_rare = call('EXISTS', BUDGETS, STREAKS, NOTES) > 0
    has_budgets = has_rare and call('EXISTS', BUDGETS) == 1
    carry_out()
    save()
    return remember(table.concat(done) .. (has_streaks and breaker.tripped() or ''), request)
  end

  return settlements
end)()
