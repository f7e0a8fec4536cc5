-- Shared by all scripts: key names. KEYS[1] is '{prefix}:store'. Every key of the store begins with
-- {prefix}, a hash tag that keeps all of them in one cluster slot. KEYS[2] is not a key: it ends
-- with the seconds since the caller's last script that read the time, if there was one.

local STORE = KEYS[1]
local base = STORE:sub(1, -7)
local call = redis.call

local QUEUES = base .. ':queues'
local READY = base .. ':ready'
local GATES = base .. ':gates'
local OPEN = base .. ':open'
local HOLDS = base .. ':holds'
local PAUSES = base .. ':pauses'
local CHANGES = base .. ':changes'
local REASONS = base .. ':reasons'
local STREAKS = base .. ':streaks'
local NOTES = base .. ':notes'
local DELAYED = base .. ':delayed'
local TASKS = base .. ':tasks'
local PAYLOADS = base .. ':payloads'
local KEPT = base .. ':kept'
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
local WAKE = base .. ':wake' -- Channel that all workers subscribe to.
local LISTENING = base .. ':listening' -- Channel that all but older versions subscribe to.
local IDLE = base .. ':idle'
local CLOCK = base .. ':clock'
local SPENT = base .. ':spent'
local MEASURES = base .. ':measures'
local BUDGETS = base .. ':budgets'
local MEMBERS = base .. ':members'
local FOLLOWERS = base .. ':followers'
local UNITS = base .. ':units'
local PARKED = base .. ':parked'
local POLICY_CHANGES = base .. ':policy_changes'
-- Numbers of the outbox entries that are group records: they say how a group ended.
local GROUP_RECORDS = base .. ':group_records'

local CHUNK = 4000 -- Arguments per command: Lua's stack limits `unpack`.
local PORTION = 500 -- Tasks that one call handles as a side job.
