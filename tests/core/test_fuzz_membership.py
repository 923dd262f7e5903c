"""Mutated membership messages by the thousand; a million of them is ``tests/large/test_mutated_messages.py``."""

from __future__ import annotations

from _mutations import MEMBERSHIP, run_decoders, run_machine


def test_ten_thousand_mutated_messages_are_read_or_refused() -> None:
    valid = run_decoders(10_000, seed=1)
    assert set(valid) == set(MEMBERSHIP), "of some decoder none was valid, so the mutations are too wild"
    assert sum(valid.values()) < 5000


def test_a_machine_survives_five_thousand_mutated_datagrams_and_those_refused_change_nothing() -> None:
    assert 250 < run_machine(5_000, seed=2) < 4000


def test_the_same_seed_makes_the_same_campaign() -> None:
    assert run_decoders(500, seed=3) == run_decoders(500, seed=3)
    assert run_machine(500, seed=3) == run_machine(500, seed=3)
