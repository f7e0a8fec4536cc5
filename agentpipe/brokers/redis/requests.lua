-- Shared by all scripts. Requests. A client numbers what it asks in a session; a repetition, after a lost reply, gets the
-- answer that was given, and one that was overtaken by a later request is not carried out.

-- ARGV has the session, the number and the seconds to remember it, at `at`, by default first.

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
