"""How each run is settled: its Result, what is tried again, and what must not run."""
