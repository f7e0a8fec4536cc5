#!lua flags=allow-oom
-- needs: ending parked policies groups policy_changes loops
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

local function change(was, was_paused, was_accepted)
  if version ~= '' then
    call('HSET', key, 'version', version)
    if tonumber(version) > was then
      policy_changes.end_stale(name, '0')
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
  policies.unpark_units(name)
  save_queues()
  policies.wake_workers()
end

if call('EXISTS', key) == 0 then
  return remember('0')
end
if unused ~= '' then
  call('HINCRBY', STORE, 'group:' .. unused, returned)
end
local found = call('HMGET', key, 'version', 'paused', 'accepted')
local was = tonumber(found[1])
if version == '' or back == '1' or tonumber(version) >= was then
  change(was, found[2], found[3])
end
return remember('1')
