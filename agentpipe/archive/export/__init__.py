"""Export: results as files for other tools. Does not query or send results."""
