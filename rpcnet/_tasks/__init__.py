"""The four supervised tasks of a node, the bus between them, and their supervisor."""
