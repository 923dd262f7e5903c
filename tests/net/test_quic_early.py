"""What is sent before the handshake is complete: heard at once, at most once, and never taken for more than it is."""

from __future__ import annotations

from random import Random

import pytest
from _quic_pair import CLIENT, LATENCY, SERVER, EarlyRecorder, Pair, Recorder
from aioquic import tls

from rpcnet._net.addresses import Address
from rpcnet._net.quic import CloseKind, QuicLink, StreamsExhausted
from rpcnet.config import RpcConfig

QUESTION = b"what is the time"
ANSWER = b"noon"
NO_TIME = 1e-6


def met(*, accepts_early: bool = True, config: RpcConfig | None = None, max_bytes: int = 1200) -> Pair:
    """Return a pair whose client has a ticket of its server, which answers every question."""
    pair = Pair(accepts_early=accepts_early, config=config or RpcConfig(), max_bytes=max_bytes)
    link, _, _, _ = pair.connect()
    link.close(0x100, "")
    pair.run(1)

    def answer(link: QuicLink, stream: int, data: bytes, end: bool) -> None:
        if end:
            link.send(stream, ANSWER, end=True)

    def on_accept(recorder: Recorder) -> None:
        recorder.on_data = answer

    pair.on_accept = on_accept
    return pair


def ask(link: QuicLink, question: bytes = QUESTION) -> int:
    stream = link.open_stream()
    link.send(stream, question, end=True)
    return stream


def dial(pair: Pair, question: bytes = QUESTION) -> tuple[QuicLink, EarlyRecorder]:
    """Dial, and ask as early as possible; again if that was lost."""
    recorder = EarlyRecorder(on_early=lambda link: ask(link, question))  # type: ignore[arg-type]
    link = pair.client.dial(SERVER, recorder, expected_name="b", now=pair.now, early=recorder)
    return link, recorder


def test_a_question_reaches_the_server_after_half_a_round_trip_and_its_answer_comes_after_one() -> None:
    pair = met()
    link, client = dial(pair)
    assert client.log == [("early", None)]
    pair.run(LATENCY + NO_TIME)
    server = pair.accepted[-1]
    assert server.log == [("early", "a"), ("data", 0, QUESTION, True)]
    assert isinstance(server, EarlyRecorder)
    assert server.early == QUESTION
    pair.run(LATENCY)
    assert client.log == [("early", None), ("ready", "b"), ("data", 0, ANSWER, True)]
    pair.run(LATENCY)
    assert server.log[-1] == ("ready", "a")
    assert link.is_ready
    for side in (pair.client, pair.server):
        statistics = side.statistics()
        assert (statistics.resumed, statistics.early, statistics.early_lost) == (1, 1, 0)


def test_everything_after_the_handshake_is_as_ever() -> None:
    pair = met()
    link, client = dial(pair)
    pair.run(0.1)
    server = pair.accepted[-1]
    assert server.link is not None
    assert not link.is_early
    assert not server.link.is_early
    stream = ask(link, b"x" * 100_000)
    assert stream == 4
    pair.run(1)
    assert server.received[stream] == b"x" * 100_000
    assert client.received == {0: ANSWER, 4: ANSWER}
    assert isinstance(server, EarlyRecorder)
    assert server.early == QUESTION
    assert link.buffered_bytes == 0


def test_without_a_ticket_there_is_nothing_early() -> None:
    pair = Pair(accepts_early=True)
    _, client = dial(pair)
    pair.run(0.05)
    assert client.log == [("ready", "b")]
    assert pair.server.statistics().early == 0


def test_a_handler_that_cannot_begin_early_on_the_dialling_side_does_not() -> None:
    pair = met()
    link, client = pair.dial(expected_name="b")
    assert not link.is_early
    with pytest.raises(StreamsExhausted):
        link.open_stream()
    pair.run(0.05)
    assert client.log == [("ready", "b")]
    assert pair.server.statistics().resumed == 1
    assert not link.engine.lost_early


def test_where_nobody_can_begin_early_what_came_early_waits_until_the_handshake_is_complete() -> None:
    pair = met(accepts_early=False)
    _, client = dial(pair)
    before = len(pair.accepted)
    pair.run(2 * LATENCY + NO_TIME)
    assert len(pair.accepted) == before
    pair.run(LATENCY)
    server = pair.accepted[-1]
    assert server.log == [("ready", "a"), ("data", 0, QUESTION, True)]
    pair.run(LATENCY)
    assert client.log == [("early", None), ("ready", "b"), ("data", 0, ANSWER, True)]
    assert pair.client.statistics().early_lost == 0


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_early_data_can_be_switched_off_on_either_side(side: Address) -> None:
    pair = Pair(accepts_early=True)
    pair.ends[side]._config = RpcConfig(early_data=False)
    pair.connect()
    _, client = dial(pair)
    pair.run(0.05)
    assert client.log == [("ready", "b")]
    assert pair.client.statistics().resumed == 1


def test_what_the_server_does_not_take_is_said_to_be_lost_and_can_be_sent_again() -> None:
    pair = met()
    pair.restart_server()
    link, client = dial(pair)
    assert link.buffered_bytes == len(QUESTION)
    pair.run(0.1)
    server = pair.accepted[-1]
    assert client.log == [("early", None), ("lost",), ("ready", "b"), ("data", 0, ANSWER, True)]
    assert server.log == [("ready", "a"), ("data", 0, QUESTION, True)]
    assert pair.client.statistics().early_lost == 1
    assert pair.server.statistics().resumed == 0
    assert link.buffered_bytes == 0
    assert link.statistics().bytes_in_flight == 0


def test_what_was_lost_is_not_sent_again_by_itself() -> None:
    pair = met()
    pair.restart_server()
    said: list[str] = []

    def once(link: QuicLink) -> None:
        if said:
            assert link.buffered_bytes == 0
            assert link.engine._remote_max_data_used == 0
            assert not link.engine._spaces[tls.Epoch.ONE_RTT].sent_packets
            said.append("lost")
        else:
            said.append("once")
            for _ in range(5):
                ask(link, b"q" * 900)
            link.open_stream(unidirectional=True)

    recorder = EarlyRecorder(on_early=once)
    link = pair.client.dial(SERVER, recorder, expected_name="b", now=pair.now, early=recorder)
    pair.run(3)
    server = pair.accepted[-1]
    assert said == ["once", "lost"]
    assert server.log == [("ready", "a")]
    assert link.statistics().open_streams == 0
    assert link.buffered_bytes == 0
    assert link.statistics().bytes_in_flight == 0
    assert [link.open_stream(), link.open_stream(unidirectional=True)] == [0, 2]


def test_a_large_question_goes_early_as_far_as_it_may_and_arrives_whole() -> None:
    for max_bytes in (1200, 8900):
        pair = met(max_bytes=max_bytes)
        blob = Random(3).randbytes(300_000)
        _, client = dial(pair, blob)
        pair.run(5)
        server = pair.accepted[-1]
        assert server.received == {0: blob}
        assert isinstance(server, EarlyRecorder)
        assert 0 < len(server.early) < 40_000
        assert client.received == {0: ANSWER}


@pytest.mark.parametrize("restart", [False, True], ids=["taken", "lost"])
@pytest.mark.parametrize("accepts_early", [False, True])
def test_whichever_datagram_is_lost_the_question_is_answered_once(accepts_early: bool, restart: bool) -> None:
    for lost in range(12):
        pair = met(accepts_early=accepts_early)
        if restart:
            pair.restart_server()
        sent = [0]

        def drop(*_: object, sent: list[int] = sent, lost: int = lost) -> bool:
            sent[0] += 1
            return sent[0] == lost + 1

        pair.drop = drop
        _, client = dial(pair, b"a longer question" * 100)
        pair.run(4)
        assert client.received == {0: ANSWER}
        assert client.log[-1] == ("data", 0, ANSWER, True)
        assert client.kinds.count("ready") == 1
        assert [r.received for r in pair.accepted[1:] if r.received] == [{0: b"a longer question" * 100}]


@pytest.mark.parametrize("restart", [False, True], ids=["taken", "lost"])
def test_over_a_wire_that_loses_and_reorders_the_question_is_answered_once(restart: bool) -> None:
    question = Random(5).randbytes(20_000)
    for seed in range(12):
        rng = Random(seed)
        pair = met()
        if restart:
            pair.restart_server()
        deliver = pair.ends[SERVER].receive
        kept: list[tuple[bytes, Address]] = []

        def shuffled(
            data: bytes,
            source: Address,
            now: float,
            rng: Random = rng,
            deliver: object = deliver,
            kept: list[tuple[bytes, Address]] = kept,
        ) -> None:
            kept.append((data, source))
            while len(kept) > 2 or (kept and rng.random() < 0.5):
                assert callable(deliver)
                deliver(*kept.pop(rng.randrange(len(kept))), now)

        pair.ends[SERVER].receive = shuffled  # type: ignore[method-assign]
        pair.drop = lambda *_, rng=rng: rng.random() < 0.1
        _, client = dial(pair, question)
        pair.run(30)
        assert client.received == {0: ANSWER}
        assert [r.received for r in pair.accepted[1:] if r.received] == [{0: question}]


def test_what_arrives_before_the_first_packet_of_its_connection_is_sent_again() -> None:
    pair = met()
    _, client = dial(pair, b"long" * 1000)
    pair.client.flush(pair.now)
    pair._wire = [(at, -count, *rest) for at, count, *rest in pair._wire]  # type: ignore[misc]
    pair._wire.sort()
    pair.run(2)
    assert pair.server.statistics().unknown_connection > 0
    assert client.received == {0: ANSWER}
    assert pair.accepted[-1].received == {0: b"long" * 1000}


def test_a_recording_that_is_played_back_is_heard_by_nobody() -> None:
    pair = met()
    _, client = dial(pair)
    pair.client.flush(pair.now)
    recorded = [data for data, _ in pair.ports[CLIENT].sent[-4:]]
    pair.run(0.1)
    assert client.received == {0: ANSWER}
    count = len(pair.accepted)
    attacker = ("10.9.9.9", 1)
    for link in list(pair.server._links):
        link.close(0x100, "")
    pair.run(1)
    for data in recorded:
        pair.server.receive(data, attacker, pair.now)
    pair.run(10)
    assert len(pair.accepted) == count
    assert pair.server.statistics().early == 1
    assert pair.server.statistics().resumed == 1
    assert pair.server.statistics().links == 0


def test_a_recording_that_comes_first_is_heard_as_early_only_and_never_becomes_ready() -> None:
    pair = met()
    pair.drop = lambda data, source, destination: source == CLIENT
    _, client = dial(pair)
    pair.client.flush(pair.now)
    recorded = [data for data, _ in pair.ports[CLIENT].sent if data[0] & 0x80][-2:]
    attacker = ("10.9.9.9", 1)
    for data in recorded:
        pair.server.receive(data, attacker, pair.now)
    pair.run(0.01)
    server = pair.accepted[-1]
    assert server.log == [("early", "a"), ("data", 0, QUESTION, True)]
    pair.run(20)
    assert server.kinds == ["early", "data", "closed"]
    assert server.closed is not None
    assert server.closed.kind is CloseKind.HANDSHAKE_FAILED
    assert pair.server.statistics().established == 1
    assert pair.server.statistics().links == 0
    assert client.closed is not None


def test_where_nobody_can_begin_early_a_recording_that_comes_first_is_heard_by_nobody() -> None:
    pair = met(accepts_early=False)
    pair.drop = lambda data, source, destination: source == CLIENT
    dial(pair)
    pair.client.flush(pair.now)
    count = len(pair.accepted)
    for data in [data for data, _ in pair.ports[CLIENT].sent if data[0] & 0x80][-2:]:
        pair.server.receive(data, ("10.9.9.9", 1), pair.now)
    pair.run(20)
    assert len(pair.accepted) == count
    assert pair.server.statistics().links == 0


def test_an_early_link_that_is_closed_at_once_tells_both_sides() -> None:
    pair = met()
    link, client = dial(pair)
    link.close(0x123, "changed my mind")
    pair.run(1)
    assert client.kinds == ["early", "closed"]
    assert all(recorder.closed is not None for recorder in pair.accepted if "early" in recorder.kinds)
    assert pair.server.statistics().links == 0


def test_a_server_that_closes_an_early_link_is_heard() -> None:
    pair = met()

    def close(recorder: Recorder) -> None:
        recorder.on_data = lambda link, *_: link.close(0x123, "not like this")

    pair.on_accept = close
    _, client = dial(pair)
    pair.run(2)
    assert client.closed is not None
    assert pair.accepted[-1].kinds == ["early", "data", "closed"]
    assert pair.server.statistics().links == 0


def test_with_a_retry_the_question_is_sent_once_more_and_answered_once() -> None:
    pair = met(config=RpcConfig(max_handshakes_per_second=1))
    pair.connect()
    link, client = dial(pair, b"long" * 700)
    pair.run(2)
    assert pair.server.statistics().retried == 1
    assert client.received == {0: ANSWER}
    assert pair.accepted[-1].received == {0: b"long" * 700}
    assert link.statistics().bytes_in_flight == 0


def test_early_handshakes_have_the_same_sizes_every_time() -> None:
    traces = set()
    for _ in range(5):
        pair = met()
        dial(pair)
        pair.run(0.1)
        traces.add(tuple(pair.trace))
    assert len(traces) == 1
