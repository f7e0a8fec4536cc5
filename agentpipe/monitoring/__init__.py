"""The fleet over time: snapshots, the rates between them, and the bottleneck."""
