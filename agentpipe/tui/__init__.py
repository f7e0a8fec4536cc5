"""Top: the terminal that shows what a fleet does, and what holds it up."""
