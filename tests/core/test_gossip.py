"""The queue of news, and that of signs of life."""

from __future__ import annotations

from collections.abc import Container

from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.gossip import GossipQueue, RefreshQueue
from rpcnet._core.messages import AGE_BYTES, REFRESH_BYTES, SMALLEST_UPDATE_BYTES


class Queue(GossipQueue):
    """A queue that is asked at moment 0 unless a test says when, and whose ages are looked at by the tests of ages."""

    def put(self, subject: str, update: bytes, born: float = 0.0) -> None:
        super().put(subject, update, born)

    def told(
        self, budget_bytes: int, n_members: int, first_about: str | None = None, *, without: Container[str] = ()
    ) -> list[bytes]:
        taken = self.take(budget_bytes, n_members, first_about, now=0.0, without=without)
        assert all(update.startswith(bytes(AGE_BYTES)) for update in taken)
        assert sum(map(len, taken)) <= budget_bytes
        return [update[AGE_BYTES:] for update in taken]


def queue(multiplier: int = 4, max_subjects: int = 1000) -> Queue:
    return Queue(multiplier=multiplier, max_subjects=max_subjects)


def news(text: str, size: int = 48) -> bytes:
    return text.encode().ljust(size, b".")


def test_an_update_is_handed_out_as_often_as_the_limit_says_and_then_dropped() -> None:
    q = queue()
    q.put("a", news("a"))
    taken = [q.told(1000, 5) for _ in range(12)]
    assert [len(part) for part in taken] == [1] * 8 + [0] * 4
    assert len(q) == 0


def test_the_limit_grows_with_the_logarithm_of_the_cluster() -> None:
    q = queue()
    assert [q.transmit_limit(n) for n in (1, 9, 99, 100, 999, 1000, 99_999)] == [8, 8, 8, 12, 12, 16, 20]


def test_a_newer_update_replaces_the_older_and_counts_from_zero() -> None:
    q = queue()
    q.put("a", news("old"))
    for _ in range(5):
        q.told(1000, 5)
    q.put("a", news("new"))
    assert len(q) == 1
    assert [q.told(1000, 5) for _ in range(9)] == [[news("new")]] * 8 + [[]]


def test_what_was_sent_least_goes_first_and_the_older_before_the_newer() -> None:
    q = queue()
    q.put("a", news("a"))
    q.told(1000, 5)
    q.put("b", news("b"))
    q.put("c", news("c"))
    assert q.told(100, 5) == [news("b"), news("c")]
    assert q.told(150, 5) == [news("a"), news("b"), news("c")]


def test_news_about_the_receiver_goes_before_everything() -> None:
    q = queue()
    for name in "abcdef":
        q.put(name, news(name))
    q.put("receiver", news("receiver"))
    assert q.told(100, 5, first_about="receiver") == [news("receiver"), news("a")]
    assert q.told(100, 5, first_about="unknown") == [news("b"), news("c")]


def test_what_the_datagram_says_already_is_left_out() -> None:
    q = queue()
    for name in "abc":
        q.put(name, news(name))
    assert q.told(1000, 5, first_about="a", without=["a", "b"]) == [news("c")]


def test_an_update_too_large_for_the_room_left_waits_while_smaller_ones_go() -> None:
    q = queue()
    q.put("large", news("large", 498))
    q.put("small", news("small", 48))
    assert q.told(400, 5) == [news("small", 48)]
    assert q.told(500, 5) == [news("large", 498)]


def test_when_the_cluster_shrinks_the_smaller_limit_holds_at_once() -> None:
    q = queue()
    q.put("a", news("a"))
    for _ in range(10):
        assert q.told(1000, 5000)
    assert q.told(1000, 5) == []
    assert "a" not in q


def test_the_queue_is_bounded_and_drops_what_was_told_most() -> None:
    q = queue(max_subjects=3)
    for name in "abc":
        q.put(name, news(name))
    q.told(50, 5)
    q.put("d", news("d"))
    assert [name in q for name in "abcd"] == [False, True, True, True]


def test_a_subject_can_be_discarded() -> None:
    q = queue()
    q.put("a", news("a"))
    q.discard("a")
    q.discard("a")
    assert q.told(1000, 5) == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.integers(SMALLEST_UPDATE_BYTES - AGE_BYTES, 400)),
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
        taken = q.told(size, n_members, first_about=subject)
        assert sum(map(len, taken)) <= size
        assert len(taken) == len(set(taken))
        for update in taken:
            about = update[:1].decode()
            assert update == newest[about]
            sent[about] += 1
            assert sent[about] <= q.transmit_limit(n_members)
    waiting = [about for about, count in sent.items() if count < q.transmit_limit(n_members)]
    assert sorted(waiting) == sorted(about for about in sent if about in q)


def test_an_update_leaves_with_the_time_since_it_was_first_said() -> None:
    q = queue()
    q.put("a", news("a"), 10.0)
    assert [q.take(1000, 5, now=now)[0][:AGE_BYTES] for now in (10.0, 10.25, 12.0, 9.0, 1e9)] == [
        b"\x00\x00",
        b"\x00\xfa",
        b"\x07\xd0",
        b"\x00\x00",
        b"\xff\xff",
    ]


def test_looking_for_room_is_given_up_when_no_update_can_fit() -> None:
    q = queue()
    q.put("a", news("a", SMALLEST_UPDATE_BYTES - AGE_BYTES))
    assert q.told(SMALLEST_UPDATE_BYTES - 1, 5) == []
    assert len(q.told(SMALLEST_UPDATE_BYTES, 5)) == 1


# --- refreshes


def sign(text: str) -> bytes:
    return text.encode().ljust(REFRESH_BYTES - AGE_BYTES, b".")


def test_a_refresh_is_passed_on_six_times_at_most() -> None:
    q = RefreshQueue()
    q.put("a", sign("a"), 0.0)
    assert [len(q.take(1000, 1.0)) for _ in range(8)] == [1] * 6 + [0] * 2
    assert len(q) == 0


def test_of_a_node_only_the_newest_refresh_waits_and_it_counts_from_zero() -> None:
    q = RefreshQueue()
    q.put("a", sign("old"), 0.0)
    for _ in range(5):
        q.take(1000, 1.0)
    q.put("a", sign("new"), 0.0)
    assert [q.take(1000, 0.0) for _ in range(7)] == [[bytes(2) + sign("new")]] * 6 + [[]]


def test_refreshes_leave_with_their_age_the_least_sent_first_as_many_as_fit() -> None:
    q = RefreshQueue()
    q.put("a", sign("a"), 1.0)
    assert q.take(1000, 1.5) == [b"\x01\xf4" + sign("a")]
    q.put("b", sign("b"), 2.0)
    q.put("c", sign("c"), 2.0)
    assert q.take(2 * REFRESH_BYTES + 22, 2.0) == [bytes(2) + sign("b"), bytes(2) + sign("c")]
    assert q.take(REFRESH_BYTES - 1, 2.0) == []
    assert len(q.take(3 * REFRESH_BYTES, 2.0)) == 3


def test_refreshes_are_bounded_per_datagram_and_in_all() -> None:
    q = RefreshQueue()
    for number in range(1000):
        q.put(str(number), sign(str(number)), 0.0)
    assert len(q) == 512
    first = q.take(10_000, 0.0)
    assert len(first) == 16
    assert first[0] == bytes(2) + sign("488")
