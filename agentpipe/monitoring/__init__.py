"""The fleet over time: snapshots, the rates between them, the stage that limits it."""
