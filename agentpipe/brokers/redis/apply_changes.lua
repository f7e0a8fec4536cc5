#!lua flags=allow-oom
-- needs: ending parked policies groups policy_changes
-- Applies a part of what pauses, budgets and policies have changed. Returns 1 if there is more.

pauses.go_on()
policy_changes.go_on()
save_queues()
wake_idle()
return call('EXISTS', CHANGES, POLICY_CHANGES) > 0 and 1 or 0
