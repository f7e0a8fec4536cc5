"""What HTTP clients of models and servers share."""
