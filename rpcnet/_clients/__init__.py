"""What all clients share: calling through a connection, whoever chose it."""
