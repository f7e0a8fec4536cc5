#!lua flags=allow-oom
-- needs: ending policies claiming
-- ARGV: session, request, seconds to remember it, worker, limit, marks of the outbox by records and
-- by bytes, claims held ('-1' for any number), seconds that settled ids are known.
-- Returns nothing, or the number of the claims and for each five values: id, record, payload, '1'
-- where it was cancelled, and the seconds of its cooldowns if there were any.

return claims.answer(4, 1)
