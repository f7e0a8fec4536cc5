"""Results as OpenTelemetry traces, and the exporter that sends them to a collector."""
