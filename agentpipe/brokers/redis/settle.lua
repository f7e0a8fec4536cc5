#!lua flags=allow-oom
-- needs: ending budgets parked policies groups breaker holding settling
-- ARGV: session, request, seconds to remember it, the settlements as a JSON list; then a result for
-- each, and the bytes that the list refers to by their index, from 1 for the first result.
-- A settlement is a list; its positions are named in `settling`:
-- 1-4: action, task id, worker, number of the claim;
-- 5-6: outcome, fingerprint of the config that ran;
-- 7-8: positions of the run and wait histograms, -1 for none;
-- 9: increments of the collection's measures, see `measures`;
-- 10: fields that most settlements lack: `delay`, `reason`, `reward`, `usd`, `tokens`; of a failure
-- for the breaker: `digest`, `limit`, `pause` (why it pauses); `queues` that a cooldown covers;
-- the indexes of a new `payload`, and of the end as a group `member`: 'good OLDEST NEWEST' with the
-- policy versions if known, or 'repair PRIORITY LENGTH ID PAYLOAD' with the length of the id in bytes.
-- Returns a letter for each: d for done, t for done and paused the collection, l if the claim was
-- lost; then, each after a newline, the collections that it paused.

local done = settlements.answer(4, 1)
wake_idle()
return done
