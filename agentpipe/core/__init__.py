"""The foundation of all packages: tasks, results, contexts, JSON, traces, masking, logs."""
