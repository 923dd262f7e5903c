"""The simulator of the core: the pure machines of many nodes in virtual time, without tasks and sockets."""
