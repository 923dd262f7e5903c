"""Ports and adapters: the UDP socket, QUIC, sealing, identities, the simulated network."""
