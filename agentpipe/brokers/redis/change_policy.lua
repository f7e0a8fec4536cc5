#!lua flags=allow-oom
-- needs: ending policies groups loops
-- ARGV: session, request, seconds to remember it, name; then, with '' for no change: version, '1'
-- if the version can go down, endpoints as a JSON list, '1' to pause or '0' to resume, number of
-- accepted groups; then how many accepted groups are returned unused, and the reason under which
-- they are counted ('' for none); then the loop and the token of the calling trainer ('' for none).
-- Returns '1', '0' if the policy does not exist, or 'taken' if the trainer does not hold the loop.

local before = answered()
if before then
  return before
end

local name, version, back, endpoints, paused, accepted, returned, unused, loop, token = unpack(ARGV, 4)
if loops.is_others(loop, token) then
  return 'taken'
end
local key = policies.key(name)

-- Cancel the rest of running groups whose oldest member is already too old for the new version.
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
