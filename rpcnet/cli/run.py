"""``rpcnet run module:app``: an application's services on a node, as a process."""

from __future__ import annotations

from typing import Annotated

import typer

import rpcnet

from ._application import ApplicationMistake, import_application, make_application
from ._options import (
    DEFAULT_BIND,
    AdvertiseOption,
    AuthorityOption,
    BindOption,
    CertificateOption,
    DrainTimeoutOption,
    GossipKeysOption,
    JsonOption,
    KeyOption,
    NameOption,
    NodeOptions,
    Profile,
    ProfileOption,
    SeedOption,
    TagOption,
    config_of,
    security_of,
)
from ._output import Output
from ._running import run_until_signal
from ._serving import Server, serve

__all__ = ["run"]

_ONLY_FOR_SERVICES = (
    *("name", "bind", "advertise", "seeds", "tags", "profile", "drain_timeout"),
    *("ca", "cert", "key", "gossip_keys"),
)
_FLAGS = {"seeds": "--seed", "tags": "--tag"}


def run(
    context: typer.Context,
    application: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="What to serve, as in 'shop.services:app'.", show_default=False)
    ],
    *,
    name: NameOption = None,
    bind: BindOption = DEFAULT_BIND,
    advertise: AdvertiseOption = None,
    seeds: SeedOption = None,
    tags: TagOption = None,
    profile: ProfileOption = Profile.LAN,
    drain_timeout: DrainTimeoutOption = None,
    ca: AuthorityOption = None,
    cert: CertificateOption = None,
    key: KeyOption = None,
    gossip_keys: GossipKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve an application until a signal ends it.

    APP is a service object, a service class without required arguments, a sequence of these, or a function, async or
    not, that returns one of these. It may also be a Node that has not been entered; then its settings are its own, and
    the options of a node are refused. MODULE is searched in the current directory first.

    One line says that it is ready, with its name and its address. SIGTERM and SIGINT drain: new calls are refused,
    which sends them to other nodes, and the running ones finish within --drain-timeout. Exit code 0 after SIGTERM, 1
    if calls had to be cut, 130 after SIGINT. A second signal ends the process at once.
    """

    async def serve_it() -> int:
        found = await make_application(application, import_application(application))
        if isinstance(found, list):
            config = config_of(profile, drain_timeout)
            security = security_of(ca, cert, key, gossip_keys)
            node = NodeOptions(name, bind, advertise, seeds, tags, config, security).node(found)
            return await serve(
                node, drain_timeout=config.drain_timeout, output=Output(as_json=as_json), shows_events=False
            )
        _refuse_options(context, application, found)
        timeout = getattr(getattr(found, "config", None), "drain_timeout", rpcnet.NodeConfig().drain_timeout)
        return await serve(found, drain_timeout=timeout, output=Output(as_json=as_json), shows_events=False)

    run_until_signal(serve_it)


def _refuse_options(context: typer.Context, application: str, server: Server) -> None:
    for option in _ONLY_FOR_SERVICES:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            flag = _FLAGS.get(option, f"--{option.replace('_', '-')}")
            raise ApplicationMistake(
                f"{flag}: {application} is a {type(server).__name__}, whose settings are its own: set it there"
            )
