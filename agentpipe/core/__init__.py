"""What everything rests on: tasks, results, contexts, JSON, traces, masking, logs."""
