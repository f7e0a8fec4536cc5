#!lua flags=no-writes
-- needs: policies
-- Returns what tell_policies does, of all of them.

return tell_policies(call('SMEMBERS', POLICIES))
