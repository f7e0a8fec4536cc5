-- Shared by the scripts that change policies, after `policies` and `groups`: goes on with changes.
-- For POLICY_CHANGES see `policies`.

local policy_changes = on_demand(function()
  local policy_changes = {}

  local UNITS_AT_ONCE = 100

  -- Cancel the rest of a running group if its oldest member is already too old. Returns how many it
  -- cancelled.
  local function cancel_stale(name, unit, version, max_staleness)
    local group = unit:match('^group (.*)$')
    local oldest = group and call('HGET', groups.key(group), 'oldest')
    if not oldest or version - oldest <= max_staleness then
      return 0
    end
    local cancelled = groups.cancel_rest(groups.read(group))
    if cancelled > 0 then
      call('HINCRBY', policies.key(name), 'stale', 1)
    end
    return cancelled
  end

  -- Returns where to go on, false at the end. A page that is too much is read again.
  local function cancel_part(name, cursor, version, max_staleness)
    local cancelled, seen = 0, 0
    repeat
      local page = call('HSCAN', UNITS, cursor, 'COUNT', UNITS_AT_ONCE)
      for index = 1, #page[2], 2 do
        if cancelled >= PORTION then
          return cursor
        elseif page[2][index + 1] == name then
          cancelled = cancelled + cancel_stale(name, page[2][index], version, max_staleness)
        end
      end
      cursor, seen = page[1], seen + #page[2] / 2
    until cursor == '0' or seen >= CHUNK
    return cursor ~= '0' and cursor
  end

  -- Cancel the rest of the groups that are too old for the policy's version. A part of many.
  function policy_changes.end_stale(name, cursor)
    local found = call('HMGET', policies.key(name), 'version', 'max_staleness')
    local is_limited = (found[2] or '') ~= ''
    local place = is_limited and cancel_part(name, cursor, tonumber(found[1]), tonumber(found[2]))
    policies.note_change('stale ' .. name, place)
  end

  -- Go on with a change, if there is one. The caller saves the queues. Returns whether there is
  -- more to apply.
  function policy_changes.go_on()
    local found = call('HSCAN', POLICY_CHANGES, '0', 'COUNT', 1)[2]
    local what, name = (found[1] or ''):match('^(%S+) ?(.*)$')
    if what == 'stale' then
      policy_changes.end_stale(name, found[2])
    elseif what and name ~= '' then
      policies.unpark_up_to(name, tonumber(found[2]))
    elseif what then
      policies.unpark_all(found[2])
    end
    return call('EXISTS', POLICY_CHANGES) == 1
  end

  return policy_changes
end)
