"""Results as traces of OpenTelemetry, and the exporter that sends them to a collector."""
