-- Shared by the scripts that know trainers' loops. LOOPS has for each name 'TOKEN BEAT LEASE REPORT':
-- who has it, when it was heard, for how many seconds no other may take it, and what it says of itself.

local loops = {}
loops.key = base .. ':loops'

function loops.read(name)
  local token, beat, lease, report = (call('HGET', loops.key, name) or ''):match('^(%S+) (%S+) (%S+) (.*)$')
  return token and {token = token, beat = tonumber(beat), lease = tonumber(lease), report = report}
end

-- Its trainer is heard now; `time` is that as text.
function loops.write(name, token, time, lease, report)
  call('HSET', loops.key, name, table.concat({token, time, lease, report}, ' '))
end

-- What callers learn of a loop: its name, the token of its trainer, for how many seconds that is silent
-- at this time, and what it has said.
function loops.row(name, time)
  local found = loops.read(name)
  return found and {name, found.token, string.format('%.6f', math.max(0, time - found.beat)), found.report}
end

-- The rows of all.
function loops.rows(time)
  local found = {}
  for _, name in ipairs(call('HKEYS', loops.key)) do
    found[#found + 1] = loops.row(name, time) or nil
  end
  return found
end

-- Whether a step of a trainer is refused, for another has its loop; none without a name.
function loops.is_others(name, token)
  local found = name ~= '' and loops.read(name)
  return name ~= '' and not (found and found.token == token)
end
