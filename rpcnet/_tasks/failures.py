"""What a caller gets of the error that a handler raised.

The rules of this file:

* A status is passed on as it is, a declared error with its fields. Everything else is ``Internal``.
* A status that came from a call of the handler's own keeps the chain of nodes it came through, also when the handler
  raised something else because of it.
* A group that holds one error is that error: it is the nursery's, not the user's.
"""

from __future__ import annotations

from rpcnet._middleware import sole_error
from rpcnet.errors import ApplicationError, Hop, Internal, StatusError, error_for_status

from .handlers import Handler

__all__ = ["answer_to", "undeclared"]

_MAX_CAUSES = 16


def answer_to(error: BaseException, handler: Handler) -> StatusError | None:
    """Return the error to send for what a handler raised; None if the handler may not raise that.

    Raises:
        TypeError: it is declared, but a field is not of the annotated type or cannot be sent.
    """
    error = sole_error(error)
    if not isinstance(error, StatusError):
        return None
    answer = error_for_status(error.status, error.message, call_id=error.call_id)
    if isinstance(error, ApplicationError):
        answer.wire_fields = handler.codec.encode_error(error)
        if answer.wire_fields is None:
            return None
    answer.hops = _hops_behind(error)
    return answer


def undeclared(error: BaseException, method: str, call_id: str) -> Internal:
    """Return what a caller gets of an error that the handler did not declare."""
    answer = Internal(f"{method} failed with {type(sole_error(error)).__name__}", call_id=call_id)
    answer.hops = _hops_behind(error)
    return answer


def _hops_behind(error: BaseException) -> tuple[Hop, ...]:
    """Return the chain of the first failed call among the causes of an error."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            break
        if isinstance(cause, StatusError) and cause.hops:
            return cause.hops
        if isinstance(cause, BaseExceptionGroup):
            found = next((hops for inner in cause.exceptions if (hops := _hops_behind(inner))), ())
            if found:
                return found
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ()
