"""What a worker says of itself in memory that outlives it, and who ends it when it freezes."""
