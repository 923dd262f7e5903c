"""A million mutated membership messages, and as many to machines that live on. Run them with ``make large``.

``RPCNET_LARGE_MESSAGES`` makes them fewer or more, ``RPCNET_LARGE_SEED`` others.
"""

from __future__ import annotations

import os

from _mutations import MEMBERSHIP, run_decoders, run_machine

COUNT = int(os.environ.get("RPCNET_LARGE_MESSAGES", "1_000_000"))
SEED = int(os.environ.get("RPCNET_LARGE_SEED", "1"))


def test_a_million_mutated_messages_are_read_or_refused() -> None:
    assert set(run_decoders(COUNT, SEED)) == set(MEMBERSHIP)


def test_a_million_mutated_datagrams_leave_a_machine_as_it_was_or_were_valid() -> None:
    assert 0 < run_machine(COUNT, SEED) < COUNT
