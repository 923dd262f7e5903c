"""The command line: ``rpcnet``, or ``python -m rpcnet``. Needs the extra ``cli``."""
