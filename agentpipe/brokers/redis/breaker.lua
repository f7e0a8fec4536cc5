-- Shared by the scripts that settle. A streak is a collection's consecutive runs that failed in the
-- same way; STREAKS has its digest and length. Each streak is read once per script, along with
-- whether its collection is already paused with a reason (`ended`).

local breaker = on_demand(function()
  local breaker = {}
  local streaks, tripped = {}, {}

  local function streak_of(collection)
    local streak = streaks[collection]
    if not streak then
      local digest, failures = (call('HGET', STREAKS, collection) or ' 0'):match('^(%S*) (%d+)$')
      streak = {digest = digest, failures = tonumber(failures),
        ended = call('HEXISTS', REASONS, 'collection ' .. collection) == 1}
      streaks[collection] = streak
    end
    return streak
  end

  local function count_failure(streak, digest)
    streak.failures = streak.digest == digest and streak.failures + 1 or 1
    streak.digest, streak.changed = digest, true
  end

  local function trip(collection, streak, reason)
    call('SADD', PAUSES, 'collection ' .. collection)
    call('HSET', REASONS, 'collection ' .. collection, reason)
    pauses.begin('flags')
    streak.failures, streak.ended, streak.changed = 0, true, true
    tripped[#tripped + 1] = '\n' .. collection
  end

  -- Count a run that failed with this digest, or succeeded if it is empty. Returns whether the
  -- streak reached `limit` and paused the collection.
  function breaker.count(collection, digest, limit, reason)
    local streak = streak_of(collection)
    if streak.ended then
      return false
    elseif digest == '' then
      streak.changed = streak.changed or streak.failures > 0
      streak.digest, streak.failures = '', 0
      return false
    end
    count_failure(streak, digest)
    if streak.failures < limit then
      return false
    end
    trip(collection, streak, reason)
    return true
  end

  function breaker.save()
    for collection, streak in pairs(streaks) do
      if streak.changed and streak.failures == 0 then
        call('HDEL', STREAKS, collection)
      elseif streak.changed then
        call('HSET', STREAKS, collection, string.format('%s %d', streak.digest, streak.failures))
      end
    end
  end

  -- The collections that this script paused, each after a newline.
  function breaker.tripped()
    return table.concat(tripped)
  end

  return breaker
end)
