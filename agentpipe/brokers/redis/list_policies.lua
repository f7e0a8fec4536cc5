#!lua flags=no-writes
-- needs: policies
-- Returns `policies.tell` for all policies.

return policies.tell(call('SMEMBERS', policies.names))
