-- Shared by all scripts. Time. TIME is the server's wall clock, which jumps when it is set; durations end by the store's own
-- clock, which differs from it by the jumps so far (skew). A script compares TIME with what the last
-- one saw. Where it went back, it jumped. Where more has passed than the caller has waited since it
-- asked last, by a clock that does not jump, the rest is a jump.

local LATENCY = 1.5 -- Seconds that a request may be under way, and half of one between two notes.
local SILENCE = 2 -- Seconds and a third of a lease: some living worker is heard before.

local function look()
  local time, found = call('TIME'), call('HMGET', CLOCK, 'skew', 'seen', 'lease')
  local wall = time[1] + time[2] / 1e6
  local skew, passed = tonumber(found[1] or 0), wall - tonumber(found[2] or wall)
  local waited, jump = tonumber((KEYS[2] or ''):match('[%d.]+$')), math.min(passed, 0)
  if waited and passed > waited + LATENCY then
    jump = passed - waited
  end
  local seen = {
    wall = wall, wall_text = time[1] .. '.' .. ('00000' .. time[2]):sub(-6), jump = jump,
    skew = skew - jump, is_noted = found[2] and passed <= 0.5,
    is_silent = passed - jump > SILENCE + tonumber(found[3] or 0) / 3,
  }
  seen.time = wall + seen.skew
  -- Formatting a number takes longer than a command.
  seen.text = seen.skew == 0 and seen.wall_text or string.format('%.6f', seen.time)
  return seen
end

-- A moment of the store's clock in Unix time, by whole seconds of difference.
local function as_wall(moment, seen)
  local ahead = math.floor(seen.wall - seen.time + 0.5)
  return ahead == 0 and moment or string.format('%.6f', tonumber(moment) + ahead)
end

-- No worker was heard for longer than a living one is silent: all are dead, or none could reach the
-- server. Each gets the time for one heartbeat, once.
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

-- The time as a number and as a string, the same for the whole script; only for scripts that write.
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

-- Unix time, for what people read.
local function wall()
  now()
  return moment.wall, moment.wall_text
end
