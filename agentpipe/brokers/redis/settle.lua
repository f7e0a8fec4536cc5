#!lua flags=allow-oom
-- needs: ending budgets policies groups breaker settling
-- ARGV: session, request, seconds to remember it, then for each settlement its action, the
-- claim's id, worker and number, and the delay, outcome, reason, result, reward (or nothing), cost,
-- of a failure for the breaker its digest (or nothing), its limit and what a pause would say,
-- the queues that a cooldown covers as a JSON list (or nothing), the task's new payload (or
-- nothing), the tokens used, the fingerprint of the config that ran (or nothing), what it adds to the measures
-- of its collection, the places there of its run's duration and of the task's wait (or nothing), and
-- what it says as a member of a group: 'good OLDEST NEWEST' with the policy's versions if they are known,
-- 'repair PRIORITY LENGTH ID PAYLOAD' with the length of the id in bytes, or nothing.
-- Before these, after the seconds: how many numbers are measured, and the limits of their buckets.
-- Returns a letter for each: d for done, t where that has paused the collection, l where the claim
-- was lost; then, a line each, the collections that it has paused.

local done = settlements.answer(4, 1)
wake_idle()
return done
