"""The options of a node, the same for every command that runs one, and those of who may talk to whom.

The rules of this file:

* What is wrong with an option is a :class:`rpcnet.ConfigError` that says option, value and rule. What the node itself
  checks (addresses, sizes, key material) is left to it.
* There is no option for the secret: the arguments of a process are for everybody to read. It comes by environment.
  Files are named by options; what is in them is read by rpcnet alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import attrs
import typer

import rpcnet

__all__ = [
    "AdvertiseOption",
    "AuthorityOption",
    "BindOption",
    "CertificateOption",
    "DrainTimeoutOption",
    "GossipKeysOption",
    "JsonOption",
    "KeyOption",
    "NameOption",
    "NodeOptions",
    "Profile",
    "ProfileOption",
    "SeedOption",
    "TagOption",
    "config_of",
    "pairs",
    "security_of",
    "split_seeds",
]

DEFAULT_BIND = "127.0.0.1:0"


class Profile(enum.Enum):
    """Which settings to start from."""

    LOCAL = "local"
    LAN = "lan"
    WAN = "wan"


NameOption = Annotated[
    str | None,
    typer.Option(
        "--name", show_default="host name and 6 random letters", help="The node's name, unique in the cluster."
    ),
]
BindOption = Annotated[
    str, typer.Option("--bind", envvar="RPCNET_BIND", metavar="HOST:PORT", help="The UDP address; port 0 is any.")
]
AdvertiseOption = Annotated[
    str | None,
    typer.Option("--advertise", metavar="HOST:PORT", help="What others dial, when it differs from --bind."),
]
SeedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        envvar="RPCNET_SEEDS",
        metavar="HOST:PORT",
        help="A node to join through; repeat it, or separate several by commas. Without any: a cluster of one.",
    ),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A tag that others select by; repeatable.")
]
ProfileOption = Annotated[
    Profile,
    typer.Option("--profile", help="Settings for one machine, for one data centre, or with an ocean in between."),
]
DrainTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--drain-timeout",
        metavar="SECONDS",
        show_default="10",
        help="How long running calls get to finish before the node leaves.",
    ),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="RPCNET_CA",
        metavar="FILE",
        help="Certificates of the trusted authorities; with --cert and --key instead of a secret.",
    ),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--cert", envvar="RPCNET_CERT", metavar="FILE", help="The certificate to show.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", envvar="RPCNET_KEY", metavar="FILE", help="Its private key.")]
GossipKeysOption = Annotated[
    Path | None,
    typer.Option(
        "--gossip-keys", envvar="RPCNET_GOSSIP_KEYS", metavar="FILE", help="The keys of membership datagrams, by line."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object per line.")]


def split_seeds(texts: Iterable[str] | None) -> tuple[str, ...]:
    """Return the addresses in the values of a repeated option."""
    return tuple(seed for text in texts or () for seed in text.replace(",", " ").split())


def pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Return what the KEY=VALUE texts of a repeated option say.

    Raises:
        ConfigError: one is malformed, or a key is given twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise rpcnet.ConfigError(f"{option} {text!r}: write KEY=VALUE")
        if key in found:
            raise rpcnet.ConfigError(f"{option} {text!r}: {key!r} is given twice")
        found[key] = value
    return found


def security_of(
    ca: Path | None, cert: Path | None, key: Path | None, gossip_keys: Path | None = None
) -> rpcnet.Security | None:
    """Return the security that files make; None for the default, which is a secret.

    Raises:
        ConfigError: some of the files are named, and others that belong to them are not.
        SecurityError: a file is of no use; the message names it.
    """
    if ca is not None and cert is not None and key is not None:
        return rpcnet.Security.files(ca=ca, cert=cert, key=key, gossip_keys=gossip_keys)
    if (ca, cert, key, gossip_keys) != (None, None, None, None):
        raise rpcnet.ConfigError("--ca, --cert and --key belong together: name all of them, or none")
    return None


def _tags(texts: Iterable[str] | None) -> dict[str, str]:
    return pairs("--tag", texts)


@attrs.frozen
class NodeOptions:
    """What the options of a command say about a node."""

    name: str | None
    """The name; None for one made up."""
    bind: str
    """The UDP address."""
    advertise: str | None
    """What others dial, if it differs."""
    seeds: tuple[str, ...] = attrs.field(converter=split_seeds)
    """Addresses to join through."""
    tags: dict[str, str] = attrs.field(converter=_tags)
    """The tags."""
    config: rpcnet.NodeConfig
    """The settings."""
    security: rpcnet.Security | None = None
    """Who may join; None for those who know the secret."""

    def node(self, services: Iterable[object] = ()) -> rpcnet.Node:
        """Make the node, with these services.

        Raises:
            ConfigError: something about it is wrong; the message names it.
            SecurityError: the secret is of no use.
        """
        return rpcnet.Node(
            self.name,
            bind=self.bind,
            advertise=self.advertise,
            seeds=self.seeds,
            tags=self.tags,
            services=services,
            security=self.security,
            config=self.config,
        )


def config_of(profile: Profile, drain_timeout: float | None) -> rpcnet.NodeConfig:
    """Return the settings of a profile.

    Raises:
        ConfigError: the drain timeout is out of range.
    """
    config: rpcnet.NodeConfig = getattr(rpcnet.NodeConfig, profile.value)()
    return config if drain_timeout is None else attrs.evolve(config, drain_timeout=drain_timeout)
