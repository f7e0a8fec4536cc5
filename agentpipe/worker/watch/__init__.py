"""What a worker records in memory that outlives it, and what ends it when it freezes."""
