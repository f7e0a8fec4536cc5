"""How servers and files are reached, by brokers and sinks alike."""
