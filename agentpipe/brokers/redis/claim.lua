#!lua flags=allow-oom
-- needs: ending policies ready suspects parking due claiming
-- ARGV: session, request, seconds to remember it, worker, limit, marks of the outbox by records and
-- by bytes, claims held ('-1' for any number), seconds that settled ids are known.
-- Returns nothing, or the number of the claims and for each two values, since a client reads many slowly:
-- 'LENGTH CANCELLED COOLED ' with the length of the id in bytes, 1 where it was cancelled and the seconds
-- of its cooldowns, then the id and the record, which is empty where there is no such task; and the payload.

local reply = claims.answer(4, 1)
wake_idle()
return reply
