#!lua flags=allow-oom
-- needs: ending policies groups loops
-- ARGV: session, request, seconds to remember it, name, version ('' to leave it), '1' where it may be
-- lower than before, endpoints as a JSON list ('' to leave them), '1' or '0' to pause or resume ('' to
-- leave that), how many are accepted ('' to leave that), how many of these train nothing, and why, to
-- count them ('' not to), the loop that changes it and the token of its trainer ('' for none).
-- Returns whether there is such a policy; 'taken' where another trainer has the loop.

local before = answered()
if before then
  return before
end

local name, version, back, endpoints, paused, accepted, returned, unused, loop, token = unpack(ARGV, 4)
if loops.is_others(loop, token) then
  return 'taken'
end
local key = policies.key(name)

-- Groups that go on, though what they have is too old for this version already.
local function cancel_stale(max_staleness)
  local units = call('HGETALL', UNITS)
  for index = 1, #units, 2 do
    local group = units[index + 1] == name and units[index]:match('^group (.*)$')
    local oldest = group and call('HGET', groups.key(group), 'oldest')
    if oldest and version - oldest > max_staleness and groups.cancel_rest(groups.read(group)) > 0 then
      call('HINCRBY', key, 'stale', 1)
    end
  end
end

local function change(was, was_paused, was_accepted, max_staleness)
  if version ~= '' then
    call('HSET', key, 'version', version)
    if tonumber(version) > was and max_staleness ~= '' then
      cancel_stale(tonumber(max_staleness))
    end
  end
  if endpoints ~= '' then
    call('HSET', key, 'endpoints', endpoints)
  end
  if paused ~= '' then
    call('HSET', key, 'paused', paused)
    if paused == '1' and was_paused ~= '1' then
      call('HINCRBY', key, 'pauses', 1)
    end
  end
  local now_accepted = (accepted ~= '' and accepted or was_accepted) - returned
  call('HSET', key, 'accepted', string.format('%.0f', math.max(0, now_accepted)))
  policies.open_gate(name)
  save_queues()
  policies.wake_workers()
end

if call('EXISTS', key) == 0 then
  return remember('0')
end
if unused ~= '' then
  call('HINCRBY', STORE, 'group:' .. unused, returned)
end
local found = call('HMGET', key, 'version', 'paused', 'accepted', 'max_staleness')
local was = tonumber(found[1])
if version == '' or back == '1' or tonumber(version) >= was then
  change(was, found[2], found[3], found[4] or '')
end
return remember('1')
