"""``rpcnet call``: one call of any method, without its class."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Annotated, Any

import attrs
import typer

import rpcnet
from rpcnet._core.described import described_service
from rpcnet._core.schema import MethodDescription, TypeDescription
from rpcnet.service import Shape

from ._arguments import arguments
from ._asking import NodeArgument, Question, ReachOption, StubMaker, TimeoutOption, described
from ._description import Unreadable, read_method, read_service
from ._lines import InputLines, print_json, to_line
from ._options import AuthorityOption, CertificateOption, KeyOption, pairs, security_of
from ._outcomes import Declared
from ._values import Misfit, Values, read_json

__all__ = ["call"]


def call(
    node: NodeArgument,
    method: Annotated[
        str, typer.Argument(metavar="SERVICE.METHOD", help="What to call, as in 'Printing.submit'.", show_default=False)
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="The arguments: JSON, or text.", show_default=False),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="JSON", help="Arguments as an object by name, or as an array by position."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="Text that goes along with the call; repeatable."),
    ] = None,
    seeds: ReachOption = None,
    timeout: TimeoutOption = None,
    ca: AuthorityOption = None,
    cert: CertificateOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print errors as JSON, too.")] = False,
) -> None:
    """Call a method of a node, and print what it returns as JSON.

    The node says what the method takes, and each VALUE is read as that: 'n=7' is a number or a text, whichever the
    method wants. Values are JSON; bytes are base64, dates and decimals are text. See 'rpcnet schema'.

    A stream of results is a line each, as they come. A stream of requests is read from standard input, a JSON value
    per line, until it ends. Ctrl-C cancels the call. The exit code is 0, or 64 + the number of the status that the
    call ended with: 69 for NOT_FOUND, 76 for UNIMPLEMENTED, 78 for UNAVAILABLE. It is 2 if the arguments do not fit.

    The secret is taken from RPCNET_SECRET, or from the user's file.
    """

    async def ask(stub_of: StubMaker) -> None:
        asked = await _Asked.of(stub_of, method, pairs("--metadata", metadata))
        await asked.run(words or (), data)

    Question(node, seeds, timeout, as_json).ask(lambda: security_of(ca, cert, key), ask)


@attrs.frozen(eq=False)
class _Asked:
    """A method of the node, ready to be called."""

    method: MethodDescription
    values: Values
    function: Callable[..., Any]

    @classmethod
    async def of(cls, stub_of: StubMaker, name: str, metadata: Mapping[str, str]) -> _Asked:
        told = await described(stub_of, name)
        if "methods" in told:
            service = read_service(told)
            raise Misfit(f"{name} is a service; its methods are: {', '.join(service.methods)}")
        method = read_method(told, name)
        try:
            contract = described_service(told)
        except ValueError as error:
            raise Unreadable(str(error)) from None
        stub = stub_of(contract, metadata=metadata)
        return cls(method, Values(method), vars(stub)[method.name])

    async def run(self, words: Sequence[str], data: str | None) -> None:
        """Call it, and print what it returns."""
        args = arguments(self.method, self.values, words, data)
        if self.method.requests is not None and self.method.requests_index is not None:
            args.insert(self.method.requests_index, self._requests(self.method.requests))
        try:
            if Shape(self.method.shape).streams_results:
                async with self.function(*args) as results:
                    async for result in results:
                        await self._print(result)
            else:
                await self._print(await self.function(*args))
        except rpcnet.ApplicationError as error:
            raise self._declared(error) from None

    async def _requests(self, kind: TypeDescription) -> AsyncGenerator[Any, None]:
        number = 0
        async for line in InputLines():
            number += 1
            if line.strip():
                yield self._request(line, number, kind)

    def _request(self, line: bytes, number: int, kind: TypeDescription) -> Any:
        try:
            return self.values.from_json(read_json(line.decode()), kind)
        except UnicodeDecodeError:
            problem = "no UTF-8"
        except Misfit as misfit:
            problem = str(misfit)
        raise Misfit(f"{self.method.full_name}: line {number} of standard input: {problem}")

    async def _print(self, result: object) -> None:
        await print_json(self.values.to_json(result, self.method.result))

    def _declared(self, error: rpcnet.ApplicationError) -> Declared:
        name, told = type(error).__name__, self.method.errors[type(error).__name__].fields
        fields = {field.name: self.values.to_json(getattr(error, field.name), field.type) for field in told}
        if "message" not in fields:
            error.message = f"{name}({', '.join(f'{field}={to_line(value)}' for field, value in fields.items())})"
        return Declared(error, fields)
