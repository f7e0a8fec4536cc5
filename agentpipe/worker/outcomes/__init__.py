"""How each run is settled: its Result, what is retried, and what must not run."""
