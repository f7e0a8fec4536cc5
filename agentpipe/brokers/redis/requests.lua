-- Shared by all scripts: requests. A client numbers its requests within a session. A request that
-- is repeated after a lost reply gets the first reply. A request that a later one overtook has no
-- effect.

-- ARGV has the session, the number and the seconds to remember the reply, starting at `at` (default
-- 1).

local function answered(at)
  at = at or 1
  local last = call('GET', base .. ':replies:' .. ARGV[at])
  if not last then
    return nil
  end
  local number, reply = last:match('^(%d+) (.*)$')
  if tonumber(number) < tonumber(ARGV[at + 1]) then
    return nil
  end
  return number == ARGV[at + 1] and reply or 'overtaken'
end

local function remember(reply, at)
  at = at or 1
  call('SET', base .. ':replies:' .. ARGV[at], ARGV[at + 1] .. ' ' .. reply, 'EX', ARGV[at + 2])
  return reply
end
