"""Whether a caller's contract fits what a server serves; asked once per connection and method, where hashes differ.

The rules of this file:

* Equal hashes fit, and cost one comparison a call. Only where they differ the server is asked for its description.
* What does not fit is refused here, with the method and each difference; nothing is sent then.
* A server that does not describe itself is believed: its own checks of values remain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpcnet._builtin_contracts import Reflection
from rpcnet._core.bodies import MethodEntry
from rpcnet._core.contracts import contract_of
from rpcnet._core.fitting import differences
from rpcnet._core.framing import FrameKind
from rpcnet._net.client_session import ClientSession
from rpcnet.errors import Unavailable, Unimplemented
from rpcnet.service import definition_of

if TYPE_CHECKING:
    from .caller import Target

__all__ = ["is_settled", "settle"]

_MAX_DEPTH = 64
_MAX_VERDICTS = 4096


def is_settled(session: ClientSession, target: Target, method: MethodEntry) -> bool:
    """Say whether a contract is known to fit; False if the server has to be asked.

    Raises:
        Unimplemented: it is known not to fit; the message names the method and the differences.
    """
    verdict = session.verdicts.get((method.number, target.schema))
    if verdict:
        raise Unimplemented(verdict, never_ran=True)
    return verdict is not None


async def settle(session: ClientSession, target: Target, method: MethodEntry, timeout_ms: int) -> None:
    """Ask the server how it describes a method, and compare. A checkpoint.

    Raises:
        Unimplemented: the contract does not fit.
    """
    if len(session.verdicts) >= _MAX_VERDICTS:
        session.verdicts.clear()
    session.verdicts[method.number, target.schema] = await _compare(session, target, timeout_ms)
    is_settled(session, target, method)


async def _compare(session: ClientSession, target: Target, timeout_ms: int) -> str:
    contract = contract_of(definition_of(Reflection))
    codec = contract.codecs(_MAX_DEPTH, session.message_limit)["describe"]
    try:
        describe = session.method(("rpcnet.Reflection", "describe"))
        body = codec.encode_arguments((target.full_name,), {})
        answer = await session.call(FrameKind.CALL, describe.number, body, timeout_ms, even_draining=True)
        theirs = codec.decode_result(answer)
    except Unavailable:
        raise
    except Unimplemented:
        return ""
    ours = {} if target.contract is None else target.contract.descriptions[target.name[1]]
    try:
        found = differences(ours, theirs if isinstance(theirs, dict) else {})
    except ValueError as error:
        found = [f"its description cannot be read: {error}"]
    if not found:
        return ""
    return f"the contract of {target.full_name} does not fit what {session.peer_name} serves: {'; '.join(found)}"
