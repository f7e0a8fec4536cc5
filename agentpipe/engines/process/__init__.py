"""Children: processes that a worker starts for its agents, and that never outlive it."""
