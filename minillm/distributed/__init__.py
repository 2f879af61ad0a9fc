"""Several processes, one result: a communicator, its transports, and who keeps which part of what."""
