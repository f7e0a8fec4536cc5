"""What a worker takes from its broker, holds under its lease, and gives back or settles."""
