"""rpcnet: distributed programs built the way Trio programs are."""
