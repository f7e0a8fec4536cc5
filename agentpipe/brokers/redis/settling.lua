-- Shared by the scripts that settle, after `ending`, `budgets`, `policies`, `groups` and `breaker`.

local settlements = (function()
  local settlements = {}

  local STEP = 21
  local FIRST, WIDTH, BUCKETS, total
  local MAX_ERROR_BYTES = 1200
  local RUNS_IN_MEAN = 8
  local time, time_text
  local done, ended = {}, {}
  local has_budgets, has_streaks = false, false

  -- Whether rare state exists (budgets, streaks, notes); one command checks all of it.
  local has_rare

  local function field(index, number)
    return ARGV[FIRST + (index - 1) * STEP + number]
  end

  -- The claims in question, as stored, by worker and task id.
  local function claims_held()
    local wanted, held = {}, {}
    for index = 1, total do
      local worker = field(index, 3)
      wanted[worker] = wanted[worker] or {}
      table.insert(wanted[worker], field(index, 2))
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

    function returns.bury(index, id, queue)
      call('HSET', base .. ':dead:' .. id, 'queue', queue, 'collection', queues[queue][COLLECTION],
        'payload', call('HGET', PAYLOADS, id) or '', 'result', field(index, 8),
        'outcome', field(index, 6), 'reason', field(index, 7))
      call('ZADD', DEAD, endings.moment_of_death(), id)
    end

    local function hold(queue, held_until)
      if queues[queue] and queues[queue][HELD_UNTIL] < held_until then
        queues[queue][HELD_UNTIL], changed[queue] = held_until, true
        later('ZADD', HOLDS, string.format('%.6f', held_until), queue)
      end
    end

    local function cool_down(index, id, queue)
      local delay, covered = tonumber(field(index, 5)), field(index, 14)
      if delay <= 0 then
        return
      end
      call('HINCRBYFLOAT', NOTES, 'cooled ' .. id, field(index, 5))
      hold(queue, time + delay)
      if covered ~= '' then
        local names = cjson.decode(covered)
        read_queues(names)
        for _, name in ipairs(names) do
          hold(name, time + delay)
        end
      end
    end

    local function note_error(index, id)
      if field(index, 7) ~= '' then
        later('HSET', NOTES, 'error ' .. id, field(index, 7))
      end
    end

    -- Apply an action that requeues the task.
    function returns.put_back(action, index, id, queue, record)
      local delay = tonumber(field(index, 5))
      note_error(index, id)
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
        cool_down(index, id, queue)
      end
    end

    return returns
  end)

  -- Update the moving average of the queue's run duration.
  local function note_run(queue, held_as)
    local took = math.max(0, time - tonumber(held_as:match(' (.*)$')))
    local mean = queues[queue][RUN_S]
    queues[queue][RUN_S] = mean == 0 and took or mean + (took - mean) / RUNS_IN_MEAN
  end

  local function settle(index, id, queue, record, held_as)
    local action = field(index, 1)
    count(queue, N_RUNNING, -1)
    if field(index, 15) ~= '' then
      call('HSET', PAYLOADS, id, field(index, 15))
    end
    if action ~= 'complete' and action ~= 'bury' then
      return returns.put_back(action, index, id, queue, record)
    end
    note_run(queue, held_as)
    if action == 'bury' then
      returns.bury(index, id, queue)
    end
    ended[#ended + 1] = {id, field(index, 8), field(index, 6), queue, field(index, 21)}
  end

  -- Per queue: done, failed, evaluated, passed, cost, time of the last failure (0 for never), and
  -- its error.
  local tallies = {}

  local function add_to_tally(index, action, queue)
    local tally = tallies[queue] or {0, 0, 0, 0, 0, 0, ''}
    local outcome, reason, reward = field(index, 6), field(index, 7), field(index, 9)
    if action == 'complete' or action == 'bury' then
      local place = outcome == 'ok' and 1 or 2
      tally[place] = tally[place] + (outcome == 'cancelled' and 0 or 1)
    end
    if reward ~= '' then
      tally[3], tally[4] = tally[3] + 1, tally[4] + tonumber(reward)
    end
    tally[5] = tally[5] + tonumber(field(index, 10))
    if reason ~= '' then
      tally[6], tally[7] = time, reason:sub(1, MAX_ERROR_BYTES)
    end
    tallies[queue] = tally
  end

  local function count_result(index, id, action)
    if not run_of(id) then
      return
    end
    local reward = field(index, 9)
    if action == 'complete' or action == 'bury' then
      count_in_run(id, 'done ' .. field(index, 17) .. ' ' .. field(index, 6), 1)
    end
    if reward ~= '' then
      count_in_run(id, 'rewarded', 1)
      count_in_run(id, 'rewards', tonumber(reward))
    end
    count_in_run(id, 'usd', tonumber(field(index, 10)))
  end

  -- Count one duration in a histogram: in its bucket and in the sum.
  local function observe(numbers, place, seconds)
    local bucket = 1
    while BUCKETS[bucket] and seconds > BUCKETS[bucket] do
      bucket = bucket + 1
    end
    add_at(numbers, place + bucket - 1, 1)
    add_at(numbers, place + #BUCKETS + 1, seconds)
  end

  local function measure_settled(index, queue, record, held_as)
    local numbers = measure(queue, queues[queue][COLLECTION], field(index, 18))
    local claimed = tonumber(held_as:match(' (.*)$'))
    if field(index, 19) ~= '' then
      observe(numbers, tonumber(field(index, 19)), math.max(0, time - claimed))
    end
    if field(index, 20) ~= '' then
      local submitted = tonumber(record:match('^%d+ %S+ %d+ %d+ %d (%S+)'))
      local waited = tonumber(as_wall(claimed, moment)) - submitted
      observe(numbers, tonumber(field(index, 20)), math.max(0, waited))
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
  local function count_run(index, queue)
    local collection, digest = queues[queue][COLLECTION], field(index, 11)
    local succeeded = field(index, 1) == 'complete' and field(index, 6) == 'ok'
    if collection == '' or (digest == '' and not succeeded) then
      return false
    elseif digest == '' and not (has_rare or has_streaks) then
      return false -- There is no streak to reset.
    end
    has_streaks = true
    return breaker.count(collection, digest, tonumber(field(index, 12)), field(index, 13))
  end

  local function charge_holders(index, id, queue)
    local usd, tokens = tonumber(field(index, 10)), tonumber(field(index, 16))
    if usd > 0 or tokens > 0 then
      budgets.charge('collection ' .. queues[queue][COLLECTION], usd, tokens)
      budgets.charge('run ' .. (id:match('^([^/]+)/') or ''), usd, tokens)
    end
  end

  local function carry_out()
    local held = claims_held()
    local ids = {}
    for index = 1, total do
      ids[index] = field(index, 2)
    end
    local records = read_records(ids)
    for index = 1, total do
      local id, worker = ids[index], field(index, 3)
      local record = records[index]
      if record and number_of(held[worker][id]) == field(index, 4) then
        local last, queue = last_and_queue(record)
        local held_as = held[worker][id]
        held[worker][id] = nil
        later('HDEL', base .. ':held:' .. worker, id)
        if last == '1' then
          call('HDEL', base .. ':worker:' .. worker, 'last', 'alone')
        end
        settle(index, id, queue, record, held_as)
        add_to_tally(index, field(index, 1), queue)
        if has_budgets then
          charge_holders(index, id, queue)
        end
        count_result(index, id, field(index, 1))
        measure_settled(index, queue, record, held_as)
        done[index] = count_run(index, queue) and 't' or 'd'
      else
        done[index] = 'l'
      end
    end
  end

  local function save()
    put_in_outbox(ended, time_text, has_rare)
    save_tallies()
    save_measures(WIDTH)
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
    FIRST, WIDTH, BUCKETS = first + 1, tonumber(ARGV[first]), cjson.decode(ARGV[first + 1])
    time, time_text = now()
    total = (#ARGV - FIRST) / STEP
    has_rare = call('EXISTS', BUDGETS, STREAKS, NOTES) > 0
    has_budgets = has_rare and call('EXISTS', BUDGETS) == 1
    carry_out()
    save()
    return remember(table.concat(done) .. (has_streaks and breaker.tripped() or ''), request)
  end

  return settlements
end)()
