"""Statistics over results: means with their uncertainty, and what is missing."""
