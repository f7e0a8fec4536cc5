"""AMQP, for the broker and the sink alike: a connection, its channels, what goes over them."""
