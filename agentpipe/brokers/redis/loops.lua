-- Shared by the scripts that handle trainers' loops. A hash has 'TOKEN BEAT LEASE REPORT' by loop
-- name: the holder's token, its last heartbeat, for how many seconds after that nobody else can
-- take the loop, and the holder's status.

local loops = {}
loops.key = base .. ':loops'

function loops.read(name)
  local token, beat, lease, report = (call('HGET', loops.key, name) or ''):match('^(%S+) (%S+) (%S+) (.*)$')
  return token and {token = token, beat = tonumber(beat), lease = tonumber(lease), report = report}
end

-- Record a heartbeat of the holder; `time` is a string.
function loops.write(name, token, time, lease, report)
  call('HSET', loops.key, name, table.concat({token, time, lease, report}, ' '))
end

-- A loop's row for callers: its name, its holder's token, the seconds since the holder's last
-- heartbeat, and its report.
function loops.row(name, time)
  local found = loops.read(name)
  return found and {name, found.token, string.format('%.6f', math.max(0, time - found.beat)), found.report}
end

-- The rows of all loops.
function loops.rows(time)
  local found = {}
  for _, name in ipairs(call('HKEYS', loops.key)) do
    found[#found + 1] = loops.row(name, time) or nil
  end
  return found
end

-- Whether a trainer's call is refused because it does not hold the loop; false without a name.
function loops.is_others(name, token)
  local found = name ~= '' and loops.read(name)
  return name ~= '' and not (found and found.token == token)
end
