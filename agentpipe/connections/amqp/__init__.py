"""AMQP for the broker and the sink: a connection, its channels and its frames."""
