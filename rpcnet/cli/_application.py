"""What ``rpcnet run module:app`` serves: from a name to service objects, or to a server.

The rules of this file:

* ``app`` may be a service object, a service class without required arguments, a sequence of these, a server that has
  not been entered (:class:`rpcnet.Node` for one), or a function without required arguments, async or not, that returns
  one of these. A service stays a service, whatever else it is.
* What the user wrote wrongly in the words or in the object is an :class:`ApplicationMistake`, which names what, where
  and the rule. What the user's code raises is a :class:`ApplicationFailure`, whose text is the user's traceback without
  the part that is ours.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeGuard, cast

from ._serving import Server

__all__ = ["ApplicationFailure", "ApplicationMistake", "import_application", "make_application"]

_HERE = str(Path(__file__).parent)
_IMPORTLIB = str(Path(importlib.__file__).parent)
_RULE = (
    "it must be a service object, a service class without required arguments, a sequence of these, a Node that has not "
    "been entered, or a function that returns one of these"
)


class ApplicationMistake(Exception):
    """The application cannot be found or is nothing that can be served; the message names what, where and the rule."""


class ApplicationFailure(Exception):
    """Code of the user raised while it was imported or called; the message is its traceback."""


def import_application(spec: str) -> object:
    """Import what ``"module:attribute"`` names; the current directory comes first in the search.

    Args:
        spec: a module and an attribute of it, both may have dots.

    Raises:
        ApplicationMistake: the words are wrong, or what they name does not exist.
        ApplicationFailure: the module raised.
    """
    module_name, colon, path = spec.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise ApplicationMistake(f"{spec!r}: write 'module:attribute', as in 'shop.services:app'")
    found: object = _import(module_name)
    place = module_name
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ApplicationMistake(f"{spec!r}: {place} has no attribute {part!r}") from None
        place = f"{place}.{part}"
    return found


def _import(name: str) -> ModuleType:
    directory = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        with _users_code():
            return importlib.import_module(name)
    except ApplicationFailure as failure:
        missing = failure.__cause__.name if isinstance(failure.__cause__, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise ApplicationMistake(
                f"{name!r}: there is no module {missing!r} in {directory}, nor elsewhere on sys.path"
            ) from None
        raise


async def make_application(spec: str, found: object) -> Server | list[object]:
    """Return the server or the service objects that an object stands for; calls it if it is a function.

    Args:
        spec: how the user named it, for messages.
        found: what :func:`import_application` returned.

    Raises:
        ApplicationMistake: it is nothing that can be served.
        ApplicationFailure: the function, or the constructor of a service, raised.
    """
    if _is_function(found):
        _check_no_arguments(f"{spec}: the function", found)
        with _users_code():
            found = found()
            if inspect.isawaitable(found):
                found = await found
        spec = f"{spec}()"
    if _is_server(found):
        return cast("Server", found)
    if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) and not _is_service(found):
        if not found:
            raise ApplicationMistake(f"{spec}: is empty: {_RULE}")
        return [_service(f"{spec}[{number}]", each) for number, each in enumerate(found)]
    return [_service(spec, found)]


def _service(place: str, found: object) -> object:
    if not _is_service(found):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise ApplicationMistake(f"{place}: is {kind}: {_RULE}")
    if not isinstance(found, type):
        return found
    if inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        raise ApplicationMistake(f"{place}: the class {found.__name__} is only a contract: {_RULE}")
    _check_no_arguments(f"{place}: the class {found.__name__}", found)
    with _users_code():
        return found()


def _check_no_arguments(what: str, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise ApplicationMistake(f"{what} requires {', '.join(required)}: {_RULE}")


def _is_service(found: object) -> bool:
    return hasattr(found, "__rpcnet_service__")


def _is_server(found: object) -> bool:
    # Statically, because the address of a server that has not been entered is nothing to be asked for.
    wanted = ("__aenter__", "__aexit__", "drain", "address")
    return (
        not isinstance(found, type)
        and not _is_service(found)
        and all(inspect.getattr_static(found, name, None) is not None for name in wanted)
    )


def _is_function(found: object) -> TypeGuard[Callable[[], object]]:
    return callable(found) and not isinstance(found, type) and not _is_service(found) and not _is_server(found)


@contextmanager
def _users_code() -> Iterator[None]:
    """Turn what code of the user raises into :class:`ApplicationFailure`.

    Raises:
        ApplicationFailure: for any exception but those that are to end the process.
    """
    try:
        yield
    except Exception as error:
        raise ApplicationFailure(users_traceback(error)) from error


def users_traceback(error: BaseException) -> str:
    """Return the traceback of an error, from the first frame on that is neither ours nor the import system's."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _is_ours(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith((_HERE, _IMPORTLIB, "<frozen importlib"))
