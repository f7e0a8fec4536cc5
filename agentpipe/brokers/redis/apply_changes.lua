#!lua flags=allow-oom
-- Applies a part of what pauses and budgets have changed. Returns 1 if there is more.

local more = pauses.go_on()
save_queues()
wake_idle()
return more
