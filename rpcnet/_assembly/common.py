"""What nodes, servers and clients have in common before they run: settings that are checked, names, HELLO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from random import Random
from typing import TypeVar

from rpcnet._core.bodies import Hello, ServiceEntry
from rpcnet._net.addresses import format_address, is_wildcard, parse_address
from rpcnet._net.identity import Security
from rpcnet._net.ports import Environment
from rpcnet._net.seeds import Seed, SeedSource, check_seed
from rpcnet._net.session import PROTOCOL_MAX, PROTOCOL_MIN
from rpcnet.config import RpcConfig
from rpcnet.errors import ConfigError

__all__ = [
    "advertised",
    "check_seeds",
    "checked",
    "checked_config",
    "checked_security",
    "child",
    "hello_of",
    "random_name",
]

T = TypeVar("T")
_VERSION = version("rpcnet")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def child(rng: Random) -> Random:
    """Return another generator, for a part that has its own."""
    return Random(rng.getrandbits(64))


def random_name(prefix: str, rng: Random) -> str:
    """Return a name that nobody else is likely to have."""
    return f"{prefix}-{''.join(rng.choice(_LETTERS) for _ in range(6))}"


def checked(name: str, value: T, kind: type) -> T:
    """Return a setting.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} = {value!r}: must be of the kind {kind.__name__}")
    return value


def check_seeds(seeds: Iterable[str | SeedSource]) -> list[Seed]:
    """Return the seeds that are to be asked.

    Raises:
        ConfigError: it is no list, or one of them is neither an address nor a source of addresses.
    """
    if isinstance(seeds, str):
        raise ConfigError(f"seeds = {seeds!r}: must be a sequence of addresses, not one string")
    return [check_seed("seeds", seed) for seed in checked("seeds", seeds, Iterable)]


def checked_security(security: Security | None) -> Security | None:
    """Return a security setting.

    Raises:
        ConfigError: it is something else; the message does not show what, because it may be a secret.
    """
    if security is not None and not isinstance(security, Security):
        raise ConfigError(f"security: must be a Security, not {type(security).__name__}")
    return security


def checked_config(config: RpcConfig | None) -> RpcConfig:
    """Return the limits of the RPC layer.

    Raises:
        ConfigError: they are something else.
    """
    if config is not None and not isinstance(config, RpcConfig):
        raise ConfigError(f"config = {config!r}: must be an RpcConfig")
    return config or RpcConfig()


async def advertised(bound: str, environment: Environment) -> str:
    """Return what others dial, given the address that a port is bound to.

    Raises:
        ConfigError: it is every address of this machine, whose own name does not resolve to one of that family.
    """
    host, port = parse_address(bound)
    if not is_wildcard(host):
        return bound
    try:
        found = await environment.resolve(environment.hostname())
    except OSError as error:
        raise ConfigError(
            f"bind = {bound!r} is every address of this machine and its own name does not resolve ({error}): "
            "say what others should dial with advertise="
        ) from error
    fitting = [ip for ip in found if (":" in ip) == (":" in host)]
    if not fitting:
        raise ConfigError(
            f"bind = {bound!r} is every address of one family, and the name of this machine stands for {found[0]}: "
            "say what others should dial with advertise="
        )
    return format_address((fitting[0], port))


def hello_of(config: RpcConfig, *, node_id: str = "", boot_id: int = 0, services: Sequence[ServiceEntry] = ()) -> Hello:
    """Return what a side says first on a connection.

    Args:
        config: its limits.
        node_id: its id if it is a node.
        boot_id: its boot id if it is a node.
        services: what it serves.
    """
    return Hello(
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_MAX,
        library=_VERSION,
        node_id=node_id,
        boot_id=boot_id,
        max_calls=config.max_calls_per_connection,
        max_message_bytes=config.max_message_bytes,
        max_request_bytes=config.max_request_bytes,
        stream_window_bytes=config.stream_window_bytes,
        tracebacks=config.tracebacks,
        services=tuple(services),
    )
