#!lua flags=allow-oom
-- needs: ending budgets parked policies groups policy_changes breaker holding settling ready suspects parking due claiming
-- ARGV: session, request and seconds to remember it for the settlements, the same for the claim,
-- then the other arguments of `claim`, and those of `settle`.
-- Two requests in one call: each can be repeated alone. Returns the replies of `settle` and
-- `claim`. If claiming fails, the second is nil: the settlements count, and a `claim` alone will
-- report the error.

local done = settlements.answer(13, 1)
local made, claimed = pcall(claims.answer, 7, 4)
wake_idle()
return {done, made and claimed}
