"""What the demo's coordinator and its workers have in common."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

import rpcnet

__all__ = ["config", "leaves", "security"]


def security(secret: str) -> rpcnet.Security:
    """Return the security of the demo's cluster, whose secret is made anew for every run."""
    return rpcnet.Security.shared_secret(secret, cluster="rpcnet-demo")


def config() -> rpcnet.NodeConfig:
    """Return the profile for one machine, patient while many processes start at once, and brief at the end."""
    return attrs.evolve(rpcnet.NodeConfig.local(), join_timeout=30.0, drain_timeout=1.0, leave_timeout=0.5)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of a group, of the groups in it, and so on; an error that is no group yields itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
