"""``rpcnet demo``: a cluster of processes on this machine that loses a worker in the middle of its work."""
