"""The queue of news."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.gossip import GossipQueue


def queue(multiplier: int = 4, max_subjects: int = 1000) -> GossipQueue:
    return GossipQueue(multiplier=multiplier, max_subjects=max_subjects)


def news(text: str, size: int = 50) -> bytes:
    return text.encode().ljust(size, b".")


def test_an_update_is_handed_out_as_often_as_the_limit_says_and_then_dropped() -> None:
    q = queue()
    q.put("a", news("a"))
    taken = [q.take(1000, 5) for _ in range(12)]
    assert [len(part) for part in taken] == [1] * 8 + [0] * 4
    assert len(q) == 0


def test_the_limit_grows_with_the_logarithm_of_the_cluster() -> None:
    q = queue()
    assert [q.transmit_limit(n) for n in (1, 9, 99, 100, 999, 1000, 99_999)] == [8, 8, 8, 12, 12, 16, 20]


def test_a_newer_update_replaces_the_older_and_counts_from_zero() -> None:
    q = queue()
    q.put("a", news("old"))
    for _ in range(5):
        q.take(1000, 5)
    q.put("a", news("new"))
    assert len(q) == 1
    assert [q.take(1000, 5) for _ in range(9)] == [[news("new")]] * 8 + [[]]


def test_what_was_sent_least_goes_first_and_the_older_before_the_newer() -> None:
    q = queue()
    q.put("a", news("a"))
    q.take(1000, 5)
    q.put("b", news("b"))
    q.put("c", news("c"))
    assert q.take(100, 5) == [news("b"), news("c")]
    assert q.take(150, 5) == [news("a"), news("b"), news("c")]


def test_news_about_the_receiver_goes_before_everything() -> None:
    q = queue()
    for name in "abcdef":
        q.put(name, news(name))
    q.put("receiver", news("receiver"))
    assert q.take(100, 5, first_about="receiver") == [news("receiver"), news("a")]
    assert q.take(100, 5, first_about="unknown") == [news("b"), news("c")]


def test_what_the_datagram_says_already_is_left_out() -> None:
    q = queue()
    for name in "abc":
        q.put(name, news(name))
    assert q.take(1000, 5, first_about="a", without=["a", "b"]) == [news("c")]


def test_an_update_too_large_for_the_room_left_waits_while_smaller_ones_go() -> None:
    q = queue()
    q.put("large", news("large", 500))
    q.put("small", news("small", 50))
    assert q.take(400, 5) == [news("small", 50)]
    assert q.take(500, 5) == [news("large", 500)]


def test_when_the_cluster_shrinks_the_smaller_limit_holds_at_once() -> None:
    q = queue()
    q.put("a", news("a"))
    for _ in range(10):
        assert q.take(1000, 5000)
    assert q.take(1000, 5) == []
    assert "a" not in q


def test_the_queue_is_bounded_and_drops_what_was_told_most() -> None:
    q = queue(max_subjects=3)
    for name in "abc":
        q.put(name, news(name))
    q.take(50, 5)
    q.put("d", news("d"))
    assert [name in q for name in "abcd"] == [False, True, True, True]


def test_a_subject_can_be_discarded() -> None:
    q = queue()
    q.put("a", news("a"))
    q.discard("a")
    q.discard("a")
    assert q.take(1000, 5) == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.integers(41, 400)),
            st.tuples(st.just("take"), st.sampled_from("abcdefgh"), st.integers(0, 1200)),
        ),
        max_size=80,
    ),
    st.integers(2, 1500),
)
@settings(max_examples=200, deadline=None)
def test_budget_limit_and_newest_per_subject_hold_whatever_happens(
    steps: list[tuple[str, str, int]], n_members: int
) -> None:
    q = queue()
    newest: dict[str, bytes] = {}
    sent: dict[str, int] = {}
    for i, (step, subject, size) in enumerate(steps):
        if step == "put":
            newest[subject] = f"{subject} {i} ".encode().ljust(size, b".")
            sent[subject] = 0
            q.put(subject, newest[subject])
            continue
        taken = q.take(size, n_members, first_about=subject)
        assert sum(map(len, taken)) <= size
        assert len(taken) == len(set(taken))
        for update in taken:
            about = update[:1].decode()
            assert update == newest[about]
            sent[about] += 1
            assert sent[about] <= q.transmit_limit(n_members)
    waiting = [about for about, count in sent.items() if count < q.transmit_limit(n_members)]
    assert sorted(waiting) == sorted(about for about in sent if about in q)
