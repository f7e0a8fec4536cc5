"""What results say together: means with their uncertainty, and what is missing."""
