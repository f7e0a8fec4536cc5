#!lua flags=allow-oom
-- needs: ending parked policies groups policy_changes ready suspects parking due claiming
-- ARGV: session, request, seconds to remember it, worker, limit, outbox limits in records and
-- bytes, claims held ('-1' for no even share), seconds that settled ids are remembered.
-- Returns nothing, or the claims' number and two values per claim: its payload after a string of
-- 'LENGTH CANCELLED COOLED ', the task's id and its record. LENGTH is the id's length in bytes,
-- CANCELLED is 1 if it was cancelled, COOLED is the seconds of its cooldowns; the record is empty
-- for an unknown task. The string packs many values because clients parse replies with many values
-- slowly.

local reply = claims.answer(4, 1)
wake_idle()
return reply
