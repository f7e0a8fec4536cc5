#!lua flags=allow-oom
-- needs: ending budgets policies groups breaker settling
-- ARGV: session, request, seconds to remember it, number of measures, bounds of the histograms'
-- buckets as a JSON list; then for each settlement, with '' for a missing value:
-- 1-4: action, task id, worker, number of the claim;
-- 5-8: delay, outcome, reason, result;
-- 9-10: reward, cost in USD;
-- 11-13: failure for the breaker: digest, limit, reason of a pause;
-- 14-15: queues that a cooldown covers as a JSON list, new payload;
-- 16-17: tokens used, fingerprint of the config that ran;
-- 18-20: increments of the collection's measures, positions of the run and wait histograms;
-- 21: end as a group member: 'good OLDEST NEWEST' with the policy versions if known, or
-- 'repair PRIORITY LENGTH ID PAYLOAD' with the length of the id in bytes.
-- Returns a letter for each: d for done, t for done and paused the collection, l if the claim was
-- lost; then, each after a newline, the collections that it paused.

local done = settlements.answer(4, 1)
wake_idle()
return done
