"""Several processes, one result: a communicator, its transports, and which rank keeps what."""
