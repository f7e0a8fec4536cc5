-- Shared by all scripts: time. TIME is the server's wall clock, which jumps when it is adjusted.
-- Durations use the store's own clock, which differs from TIME by the sum of the jumps (skew). A
-- script compares TIME with the value that the last script recorded. If TIME went back, it jumped.
-- If it advanced further than the caller's monotonic clock since its last request, the excess is a
-- jump.

local LATENCY = 1.5 -- Tolerance in seconds: 1 for a request in flight, 0.5 between two records.
local SILENCE = 2 -- Seconds; in this time plus a third of a lease, some live worker must be heard.

local function look()
  local time, found = call('TIME'), call('HMGET', CLOCK, 'skew', 'seen', 'lease')
  local wall = time[1] + time[2] / 1e6
  -- Another program can have written them.
  local skew, before = tonumber(found[1] or '') or 0, tonumber(found[2] or '')
  local passed = wall - (before or wall)
  local waited, jump = tonumber((KEYS[2] or ''):match('[%d.]+$')), math.min(passed, 0)
  if waited and passed > waited + LATENCY then
    jump = passed - waited
  end
  local seen = {
    wall = wall, wall_text = time[1] .. '.' .. ('00000' .. time[2]):sub(-6), jump = jump,
    skew = skew - jump, is_noted = before and passed <= 0.5,
    is_silent = passed - jump > SILENCE + (tonumber(found[3] or '') or 0) / 3,
  }
  seen.time = wall + seen.skew
  -- Formatting a number is slower than a command.
  seen.text = seen.skew == 0 and seen.wall_text or string.format('%.6f', seen.time)
  return seen
end

-- Convert a moment of the store's clock to Unix time; the difference is rounded to whole seconds.
local function as_wall(moment, seen)
  local ahead = math.floor(seen.wall - seen.time + 0.5)
  return ahead == 0 and moment or string.format('%.6f', tonumber(moment) + ahead)
end

-- No worker was heard for longer than a live worker stays silent: all are dead, or none could reach
-- the server. Extend each lease once, by the time for one heartbeat.
local function await_workers(time)
  for _, name in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
    local key = base .. ':worker:' .. name
    local found = call('HMGET', key, 'lease', 'awaited')
    if not found[2] then
      call('ZADD', WORKERS, 'GT', time + tonumber(found[1] or 0) / 3 + SILENCE, name)
      call('HSET', key, 'awaited', '1')
    end
  end
end

local moment

-- The time as a number and a string, constant within a script; only for scripts that write.
local function now()
  if not moment then
    moment = look()
    if not moment.is_noted or moment.jump ~= 0 then
      call('HSET', CLOCK, 'skew', string.format('%.6f', moment.skew), 'seen', moment.wall_text)
    end
    if moment.is_silent then
      await_workers(moment.time)
    end
  end
  return moment.time, moment.text
end

-- Unix time, for values that are displayed.
local function wall()
  now()
  return moment.wall, moment.wall_text
end
