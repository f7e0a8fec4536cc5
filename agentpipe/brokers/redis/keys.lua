-- Shared by all scripts. KEYS[1] is '{prefix}:store'; each key of the set begins with the same
-- {prefix}, a hash tag, so that all of them lie in one slot of a cluster. KEYS[2] is not a key: it ends
-- with the seconds since the caller's last script that asked for the time, if there was one.

local STORE = KEYS[1]
local base = STORE:sub(1, -7)
local call = redis.call

local QUEUES = base .. ':queues'
local READY = base .. ':ready'
local GATES = base .. ':gates'
local OPEN = base .. ':open'
local HOLDS = base .. ':holds'
local PAUSES = base .. ':pauses'
local REASONS = base .. ':reasons'
local STREAKS = base .. ':streaks'
local NOTES = base .. ':notes'
local DELAYED = base .. ':delayed'
local TASKS = base .. ':tasks'
local PAYLOADS = base .. ':payloads'
local ORDER = base .. ':order'
local SETTLED = base .. ':settled'
local RESULTS = base .. ':results'
local OUTBOX = base .. ':outbox'
local WORKERS = base .. ':workers'
local DEAD = base .. ':dead'
local TALLIES = base .. ':tallies'
local SUSPECTS = base .. ':suspects'
local SOURCES = base .. ':sources'
local RUNS = base .. ':runs'
local DRAINS = base .. ':drains'
local WAKE = base .. ':wake' -- A channel that all workers hear, like the next one.
local LISTENING = base .. ':listening' -- No worker of an earlier version hears this one.
local IDLE = base .. ':idle'
local CLOCK = base .. ':clock'
local SPENT = base .. ':spent'
local MEASURES = base .. ':measures'
local BUDGETS = base .. ':budgets'
local MEMBERS = base .. ':members'
local FOLLOWERS = base .. ':followers'
local UNITS = base .. ':units'
-- The numbers of those in the outbox that say how a group ended.
local GROUP_RECORDS = base .. ':group_records'

local CHUNK = 4000 -- Lua's stack takes not many more arguments at once.
local PORTION = 500 -- So many tasks are moved on the side by one call.
