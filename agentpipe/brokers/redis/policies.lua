-- Shared by the scripts that know policies. POLICIES has their names, FOLLOWERS the policy of each
-- collection that has one. The hash of a policy: 'spec' as a file has declared it last, 'endpoints' that
-- hold now, 'version', 'paused' (0 or 1), and 'pauses', how often it was.

local POLICIES = base .. ':policies'
local FOLLOWERS = base .. ':followers'

local function policy_key(name)
  return base .. ':policy:' .. name
end

-- Their workers look, whatever else has woken them.
local function tell_workers()
  call('PUBLISH', WAKE, '')
end

-- What a file says of a collection; an empty name where it follows none. Returns whether that is new.
local function declare_policy(collection, name, spec, endpoints)
  if name == '' then
    return call('HDEL', FOLLOWERS, collection) == 1
  end
  local key, follows = policy_key(name), call('HGET', FOLLOWERS, collection) == name
  if call('HGET', key, 'spec') == spec then
    if not follows then
      call('HSET', FOLLOWERS, collection, name)
    end
    return not follows
  end
  call('SADD', POLICIES, name)
  call('HSET', FOLLOWERS, collection, name)
  call('HSET', key, 'spec', spec, 'endpoints', endpoints)
  for _, field in ipairs({'version', 'paused', 'pauses'}) do
    call('HSETNX', key, field, '0')
  end
  return true
end

local POLICY_FIELDS = {'spec', 'endpoints', 'version', 'paused', 'pauses'}

-- Six values for each: its name, and the fields; '' for one that is missing.
local function tell_policies(names)
  local reply = {}
  for _, name in ipairs(names) do
    reply[#reply + 1] = name
    for _, value in ipairs(call('HMGET', policy_key(name), unpack(POLICY_FIELDS))) do
      reply[#reply + 1] = value or ''
    end
  end
  return reply
end
