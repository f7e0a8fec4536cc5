#!lua flags=no-writes
-- needs: policies
-- Returns what policies.tell does, of all of them.

return policies.tell(call('SMEMBERS', policies.names))
