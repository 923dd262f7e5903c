"""Running suspicions: evidence, time, refusals, the jury."""

from __future__ import annotations

import math

import pytest

from rpcnet._core.suspicion import JURY, Case, Docket, is_juror, open_case


def case(n: int = 20, *, pause: float = 5.0, spread: float = 1.5, now: float = 0.0) -> Case:
    return open_case(boot_id=1, incarnation=0, phi=8.0, n_members=n, pause=pause, spread=spread, now=now)


def accused(n: int, *accusers: str, refused: int = 0, phi: float = 3.0) -> Case:
    found = case(n)
    for i, accuser in enumerate(accusers):
        found.accuse(accuser, phi, refused=i < refused)
    return found


def test_the_patience_is_the_pause_and_the_time_for_the_refutation() -> None:
    assert case().patience == 6.5
    assert accused(20, "a", "b", "c").verdict_at == pytest.approx(6.5, rel=0.05)
    assert accused(20, "a").verdict_at == 4 * 6.5


def test_with_ample_evidence_it_is_lifeguards_minimum_and_without_any_its_maximum() -> None:
    """Lifeguard, section IV-B: the timeout falls from its maximum to its minimum as independent suspicions come in."""
    times = [accused(20, *"abcdefgh"[:count]).verdict_at for count in range(9)]
    assert times == sorted(times, reverse=True)
    assert times[0] == 4 * 6.5
    assert times[-1] == pytest.approx(6.5, rel=0.05)


def test_a_repeat_counts_as_much_as_it_says_more_and_what_says_less_takes_nothing_back() -> None:
    found = accused(20, "a")
    found.accuse("a", 3.5)
    assert found.evidence == 3.5
    found.accuse("a", 2.0)
    assert found.evidence == 3.5


def test_a_refusal_counts_three_whatever_the_accuser_could_say_of_its_silence() -> None:
    assert accused(20, "a", "b", refused=1, phi=0.5).evidence == 3.5


@pytest.mark.parametrize(
    ("n", "refusers", "is_fast"), [(2, 1, True), (3, 1, False), (3, 2, True), (10, 2, False), (10, 3, True)]
)
def test_refusals_that_suffice_by_themselves_need_no_pause(n: int, refusers: int, is_fast: bool) -> None:
    found = accused(n, *"abcdefgh"[:refusers], refused=refusers)
    assert found.patience == (1.5 if is_fast else 6.5)


def test_refusals_do_not_suffice_together_with_mere_silence() -> None:
    assert accused(10, "a", "b", "c", "d", refused=2).patience == 6.5


def test_two_refusals_of_one_node_are_those_of_one() -> None:
    found = accused(3, "a", refused=1)
    found.accuse("a", 9.0, refused=True)
    assert found.patience == 6.5


def test_a_docket_says_what_is_to_be_judged_first() -> None:
    docket = Docket(0.75)
    docket.open("x", case(now=0.0))
    docket.open("y", case(now=5.0))
    for accuser in "abc":
        docket.accuse("y", accuser, 3.0, 5.0, refused=False)
    assert docket.next_timer() == pytest.approx(10.5, abs=0.3)
    assert docket.pop(10.0) is None
    popped = docket.pop(12.0)
    assert popped is not None
    assert popped[0] == "y"
    docket.close("y")
    assert docket.next_timer() == 25.25
    assert sorted(docket) == ["x"]


def test_evidence_that_comes_late_makes_a_verdict_due_now_and_not_in_the_past() -> None:
    docket = Docket(0.75)
    docket.open("x", case(now=0.0))
    for accuser in "abc":
        docket.accuse("x", accuser, 3.0, 20.0, refused=False)
    assert docket.next_timer() == 20.0


def test_clocks_stand_still_or_start_again() -> None:
    docket = Docket(0.75)
    docket.open("x", case(now=0.0))
    docket.delay(3.0, 10.0, judge_from=10.25, is_long=False)
    assert docket.next_timer() == 28.25
    docket.delay(60.0, 100.0, judge_from=100.25, is_long=True)
    assert docket.next_timer() == 125.25
    docket.delay(0.0, 200.0, judge_from=200.25, is_long=False)
    assert docket.next_timer() == 200.25


def test_phi_is_small_at_first_and_the_threshold_at_the_verdict() -> None:
    found = accused(20, "a", "b", "c", "d", "e")
    assert found.phi(0.0) == pytest.approx(math.log10(2), abs=0.01)
    assert found.phi(found.verdict_at) == pytest.approx(8.0, abs=0.01)


def test_only_what_others_say_supports() -> None:
    docket = Docket(0.75)
    docket.open("x", case())
    docket.accuse("x", "me", 3.0, 0.0, refused=False)
    assert not docket.is_supported("x", "me")
    docket.accuse("x", "b", 3.0, 0.0, refused=False)
    assert docket.is_supported("x", "me")
    assert not docket.is_supported("y", "me")


def test_the_jury_has_five_members_on_average_at_any_size() -> None:
    for n in (20, 100, 1000):
        sizes = [sum(is_juror(f"s{s}", 1, 0, juror_id=f"j{j}", n_members=n) for j in range(n - 2)) for s in range(40)]
        assert sum(sizes) / len(sizes) == pytest.approx(JURY, abs=1.0)


def test_in_a_small_cluster_everyone_is_a_juror() -> None:
    assert all(is_juror("s", 1, 0, juror_id=f"j{j}", n_members=7) for j in range(50))
