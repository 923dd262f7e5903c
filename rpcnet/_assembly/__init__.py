"""What nodes, servers and clients are made of, and how long each part lives."""
