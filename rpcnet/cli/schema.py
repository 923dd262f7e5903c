"""``rpcnet schema``: what a node serves, for people and for programs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import rpcnet
from rpcnet._core.cddl import to_cddl
from rpcnet.service import BUILTIN_PREFIX

from ._asking import NodeArgument, Question, ReachOption, StubMaker, TimeoutOption, described
from ._description import Unreadable, read_service
from ._lines import print_json, print_text
from ._options import AuthorityOption, CertificateOption, KeyOption, security_of
from ._schema_text import service_text

__all__ = ["schema"]


def schema(
    node: NodeArgument,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVICE[.METHOD]", help="What to show. Without it: everything but the built-in services."
        ),
    ] = None,
    *,
    as_cddl: Annotated[bool, typer.Option("--cddl", help="Print what is on the wire as CDDL, RFC 8610.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the node tells as JSON, and errors too.")] = False,
    seeds: ReachOption = None,
    timeout: TimeoutOption = None,
    ca: AuthorityOption = None,
    cert: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Show what a node serves: services, methods, and the classes that they use.

    With --json each service, or the method, is one line. The built-in services are shown by name:
    'rpcnet schema NODE rpcnet.Health'. Exit codes are those of 'rpcnet call'.
    """

    async def ask(stub_of: StubMaker) -> None:
        if as_cddl and as_json:
            raise rpcnet.ConfigError("--cddl, --json: name one of the two")
        names = [name] if name is not None else await _own_services(stub_of)
        for number, one in enumerate(names):
            told = await described(stub_of, one)
            if as_json:
                await print_json(told)
            else:
                text = await _text(stub_of, one, told, as_cddl=as_cddl)
                await print_text(f"\n{text}" if number else text)

    Question(node, seeds, timeout, as_json).ask(lambda: security_of(ca, cert, key), ask)


async def _own_services(stub_of: StubMaker) -> list[str]:
    services = await stub_of(rpcnet.Reflection).services()
    return [each.name for each in services if not each.name.startswith(BUILTIN_PREFIX)]


async def _text(stub_of: StubMaker, name: str, told: dict[str, Any], *, as_cddl: bool) -> str:
    """Return text on a service, or on a method, which is shown as the only one of its service."""
    method = None
    if "methods" not in told:
        name, _, method = name.rpartition(".")
        told = await described(stub_of, name)
        told = {**told, "methods": {method: told["methods"].get(method)}}
    service = read_service(told)
    if not as_cddl:
        return service_text(service)
    try:
        return to_cddl(told).rstrip()
    except ValueError as error:
        raise Unreadable(str(error)) from None
