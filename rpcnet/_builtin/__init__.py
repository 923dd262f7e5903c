"""The services that every node has without being asked."""
