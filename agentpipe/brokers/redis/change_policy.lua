#!lua flags=allow-oom
-- needs: policies
-- ARGV: name, version ('' to leave it), '1' where it may be lower than before, endpoints as a JSON list
-- ('' to leave them), and '1' or '0' to pause or resume ('' to leave that).
-- Returns what tell_policies does; nothing where there is no such policy. The same change twice is
-- the same as once.

local name, version, back, endpoints, paused = unpack(ARGV)
local key = policy_key(name)

if call('EXISTS', key) == 0 then
  return {}
end
local known, was_paused = unpack(call('HMGET', key, 'version', 'paused'))
if version == '' or back == '1' or tonumber(version) >= tonumber(known) then
  if version ~= '' then
    call('HSET', key, 'version', version)
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
  tell_workers()
end
return tell_policies({name})
