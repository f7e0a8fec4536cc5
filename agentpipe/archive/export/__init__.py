"""Export: results as files that other tools open. Nothing here looks for results or sends any."""
