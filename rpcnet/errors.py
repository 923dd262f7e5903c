"""Every error that rpcnet raises on purpose.

The rules of this file:

* :class:`RpcNetError` is the root. Whatever rpcnet raises itself derives from it.
* A call ends with a result or with one :class:`StatusError`. The status codes are gRPC's, each code is a class, and a
  handler raises the same classes that its caller catches.
* Each class says when it is raised, whether a retry is safe, and whether anything can have changed.
* A service declares errors of its own as subclasses of :class:`ApplicationError`. Their fields are typed as parameters
  are, and cross the wire as parameters do.
"""

# Annotations are objects here, not strings: the facade gives these classes another module, where a string that a
# subclass inherits could not be resolved.
import enum
from collections.abc import Mapping
from typing import Any, ClassVar, dataclass_transform

import attrs

__all__ = [
    "Aborted",
    "AlreadyExists",
    "ApplicationError",
    "CallCancelled",
    "ConfigError",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Hop",
    "Internal",
    "InvalidArgument",
    "JoinError",
    "NameConflict",
    "NoWorkers",
    "NodeCrashed",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ProtocolError",
    "ResourceExhausted",
    "RpcNetError",
    "SecurityError",
    "Status",
    "StatusError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionMismatch",
    "error_for_status",
]


class RpcNetError(Exception):
    """The root of every error that rpcnet raises on purpose."""


class Status(enum.IntEnum):
    """The outcome of a call, with gRPC's numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@attrs.frozen
class Hop:
    """One node that an error came through."""

    node: str
    """The name of the node."""
    method: str
    """What was called there, ``"service.method"``."""
    call_id: str | None = None
    """The id under which that node logged the failure, when it logged one."""


class StatusError(RpcNetError):
    """A call that ended with a status other than OK.

    Args:
        message: what happened, for a person to read.
        call_id: the id under which the server logged the failure, when it logged one.
        never_ran: True when no handler can have run, so that repeating the call is safe whatever it does.
        hops: the nodes that the error came through. First the node that was called, then the node that its handler
            had called in turn, last the node where the error arose. Empty for an error that was raised in this
            process: by a handler, or before anything was sent.
        remote_traceback: the traceback of the node where the error arose, when both sides have switched that on.
    """

    status: ClassVar[Status] = Status.UNKNOWN
    wire_fields: tuple[str, bytes] | None = None
    """Name and packed fields of a declared error, on the way between the wire and the contract that knows it."""

    def __init__(
        self,
        message: str = "",
        *,
        call_id: str | None = None,
        never_ran: bool = False,
        hops: tuple[Hop, ...] = (),
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.call_id = call_id
        self.never_ran = never_ran
        self.hops = hops
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        """Return the message, the call id if there is one, and the nodes on the way if there is more than one."""
        text = f"{self.message} [call {self.call_id}]" if self.call_id else self.message
        if len(self.hops) > 1:
            text += f" (through {', '.join(f'{hop.node}: {hop.method}' for hop in self.hops)})"
        return text


class CallCancelled(StatusError):
    """The call was cancelled on the server. The handler may have run in part; retry if idempotent."""

    status = Status.CANCELLED


class Unknown(StatusError):
    """The server answered with a status that this version does not know. The handler may have run."""

    status = Status.UNKNOWN


class InvalidArgument(StatusError):
    """An argument is wrong whatever the state of the system; the message names it. A retry fails again; nothing ran."""

    status = Status.INVALID_ARGUMENT


class DeadlineExceeded(StatusError):
    """The deadline passed before the call was done. The handler was cancelled and may have run in part."""

    status = Status.DEADLINE_EXCEEDED


class NotFound(StatusError):
    """Raised by a handler for something that does not exist. A retry fails again unless somebody creates it."""

    status = Status.NOT_FOUND


class AlreadyExists(StatusError):
    """Raised by a handler for something that exists already. A retry fails again; nothing changed."""

    status = Status.ALREADY_EXISTS


class PermissionDenied(StatusError):
    """The caller is known and may not do this. A retry fails again; nothing ran."""

    status = Status.PERMISSION_DENIED


class ResourceExhausted(StatusError):
    """A limit was reached; the message names it with both numbers. Retry later; if it is rpcnet's own, nothing ran."""

    status = Status.RESOURCE_EXHAUSTED


class FailedPrecondition(StatusError):
    """Raised by a handler when the state of the system forbids the operation. Retry after the state has changed."""

    status = Status.FAILED_PRECONDITION


class Aborted(StatusError):
    """Raised by a handler that lost a race and changed nothing. Retry the whole read-modify-write."""

    status = Status.ABORTED


class OutOfRange(StatusError):
    """Raised by a handler for a position past the end. A retry fails again until there is more."""

    status = Status.OUT_OF_RANGE


class Unimplemented(StatusError):
    """The server has no such service or method. A retry on the same node fails again; nothing ran."""

    status = Status.UNIMPLEMENTED


class Internal(StatusError):
    """A handler raised something undeclared. The traceback is in the server's log under ``call_id``; it ran in part."""

    status = Status.INTERNAL


class Unavailable(StatusError):
    """The node cannot be reached, is draining or was lost in mid-call.

    ``never_ran`` says whether the call can have reached a handler. When it is True a retry elsewhere is always safe,
    otherwise only for idempotent methods.
    """

    status = Status.UNAVAILABLE


class DataLoss(StatusError):
    """Raised by a handler for data that is gone or damaged. A retry fails again."""

    status = Status.DATA_LOSS


class Unauthenticated(StatusError):
    """One side did not prove who it is, or is not whom the call was for; the message says what was missing.

    Nothing ran. A retry on the same node fails again; on another one it may work, and is made.
    """

    status = Status.UNAUTHENTICATED


_RESERVED = frozenset({"args", "status", "call_id", "never_ran", "hops", "remote_traceback", "wire_fields"})
"""What every error has; a field of that name would hide it. A field called ``message`` is the message."""


@dataclass_transform(field_specifiers=(attrs.field,))
class ApplicationError(StatusError):
    """The base of the errors that a service declares; subclasses are attrs classes and cross the wire as themselves.

    ``class OutOfPaper(ApplicationError): tray: int`` is raised as ``OutOfPaper(3)`` or ``OutOfPaper(tray=3)``, by a
    method that says ``@rpc(raises=[OutOfPaper])``, and is caught as ``OutOfPaper`` with its field. Fields have any
    annotation that a parameter may have. Errors are equal when class and fields are, whichever way they came.

    A subclass may set ``status``, which is ``FAILED_PRECONDITION`` otherwise: something that the operation needs is
    missing, and a retry helps only after that has changed. A caller whose contract does not declare the class gets the
    class of that status instead, with the message. A handler ran, in part.

    The message is the repr, ``OutOfPaper(tray=3)``, unless there is a field called ``message``.
    """

    status: ClassVar[Status] = Status.FAILED_PRECONDITION

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if type(self) is ApplicationError:
            raise TypeError("ApplicationError is a base class: declare a subclass")
        self.__attrs_init__(*args, **kwargs)  # type: ignore[attr-defined]
        super().__init__(self.__dict__["message"] if "message" in self.__dict__ else repr(self))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the subclass an attrs class.

        Raises:
            ConfigError: a field would hide what every error has, or the status is none that an error can have.
        """
        super().__init_subclass__(**kwargs)
        status: object = cls.status
        if not isinstance(status, Status) or status is Status.OK:
            raise ConfigError(f"{cls.__name__}.status = {status!r}: must be a Status other than OK")
        attrs.define(cls, slots=False, init=False, eq=False, auto_exc=False, getstate_setstate=False)
        cls.__attrs_init__.__qualname__ = cls.__qualname__  # type: ignore[attr-defined] # what a wrong call's error names
        for field in _fields(cls):
            if field.name in _RESERVED:
                raise ConfigError(f"{cls.__name__}.{field.name}: every error has an attribute of this name")

    def __eq__(self, other: object) -> bool:
        """Compare class and fields; where the error came through does not matter."""
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in _fields(type(self)) if field.eq)

    def __hash__(self) -> int:
        """Return one number for each class, because fields may be lists, and may be set."""
        return hash(type(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the fields, however they were given."""
        return _restore, (type(self), self.args, dict(self.__dict__))


def _fields(cls: Any) -> "tuple[attrs.Attribute[Any], ...]":
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)
    return fields


def _restore(cls: type[ApplicationError], args: tuple[object, ...], state: Mapping[str, object]) -> ApplicationError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


_BY_STATUS: dict[int, type[StatusError]] = {
    kind.status: kind
    for kind in (
        CallCancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def error_for_status(
    status: int,
    message: str,
    *,
    call_id: str | None = None,
    never_ran: bool = False,
    hops: tuple[Hop, ...] = (),
    remote_traceback: str | None = None,
) -> StatusError:
    """Build the error class that stands for a status number; an unknown number gives :class:`Unknown`."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind, message = Unknown, f"status {status}: {message}"
    return kind(message, call_id=call_id, never_ran=never_ran, hops=hops, remote_traceback=remote_traceback)


class ConfigError(RpcNetError, ValueError):
    """A setting, an address or a selector is wrong; the message names field, value and rule. Nothing changed."""


class SecurityError(RpcNetError):
    """The security settings do not permit this, or key material is unusable. Nothing was sent."""


class JoinError(RpcNetError):
    """No seed could be joined within ``join_timeout``; the message lists every seed with what it answered.

    Attributes:
        answers: what each seed answered, by seed.
    """

    def __init__(self, message: str, answers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.answers = dict(answers or {})


class NameConflict(RpcNetError):
    """Another live node of the cluster has this node's name. This node did not join; the other one noticed nothing."""


class NodeCrashed(RpcNetError):
    """A part of a node failed more often than its supervisor allows; the cause is the group of what it raised.

    Calls in flight were ended with :class:`Unavailable`; the rest of the cluster was told that the node left.
    """


class NoWorkers(RpcNetError):
    """No live node serves what was asked for under that selector. Nothing was sent; retry when one has joined."""


class VersionMismatch(RpcNetError):
    """Two nodes share no protocol version; the message names both ranges. The connection was closed; nothing ran."""


class ProtocolError(RpcNetError):
    """A peer broke the wire protocol; the message names the frame. That connection was closed, no other was touched."""
