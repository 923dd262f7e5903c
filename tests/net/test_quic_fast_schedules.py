"""Our engine against an unmodified one, both roles, over wires that lose, delay and repeat datagrams."""

from __future__ import annotations

from random import Random

import attrs
import pytest
from _engine_wire import CLIENT, Heard, Wire, check_accounts
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._net.quic_engine import Engine

SIZES = st.sampled_from([0, 1, 63, 700, 1200, 5_000, 40_000])


@attrs.frozen
class Act:
    """Something that an application, or the network, does."""

    what: str
    """The name of a method of :class:`Play`."""
    side: int
    size: int
    after: float


ACTS = st.builds(
    Act,
    st.sampled_from(
        [
            *("open", "open", "open_one_way", "write", "write", "write", "end", "end", "reset", "stop"),
            *("ping", "update_key", "move", "change_id", "silence"),
        ]
    ),
    st.integers(0, 1),
    SIZES,
    st.sampled_from([0.0, 0.0, 0.0005, 0.003, 0.01, 0.05]),
)


@attrs.define(eq=False)
class Play:
    """Plays acts on a wire and knows what each end must have heard when all is over."""

    wire: Wire
    rng: Random
    said: dict[tuple[int, int], Heard] = attrs.field(factory=dict)
    is_updated: bool = False
    moves: int = 0

    def act(self, act: Act) -> None:
        getattr(self, act.what)(act.side, act.size)
        self.wire.run(act.after)

    def open(self, side: int, size: int, *, one_way: bool = False) -> None:
        stream_id = self.wire.ends[side].get_next_available_stream_id(is_unidirectional=one_way)
        self.said[side, stream_id] = Heard()
        if not one_way:
            self.said[1 - side, stream_id] = Heard()
        self._say(side, stream_id, size + 1)  # so that the other side gets to know of it

    def open_one_way(self, side: int, size: int) -> None:
        self.open(side, size, one_way=True)

    def write(self, side: int, size: int) -> None:
        if (stream_id := self._any_stream(side)) is not None:
            self._say(side, stream_id, size)

    def end(self, side: int, size: int) -> None:
        if (stream_id := self._any_stream(side)) is not None:
            self.wire.ends[side].send_stream_data(stream_id, b"", end_stream=True)
            self.said[side, stream_id].ended = True

    def reset(self, side: int, size: int) -> None:
        if size < 1200 and (stream_id := self._any_stream(side)) is not None:
            self.wire.ends[side].reset_stream(stream_id, 7)
            self.said[side, stream_id].reset = 7

    def stop(self, side: int, size: int) -> None:
        stream_id = self._any_stream(1 - side)
        if size < 1200 and stream_id is not None and stream_id in self.wire.ends[side]._streams:
            self.wire.ends[side].stop_stream(stream_id, 9)
            self.said[1 - side, stream_id].stopped = 9

    def ping(self, side: int, size: int) -> None:
        self.wire.ends[side].send_ping(size)

    def update_key(self, side: int, size: int) -> None:
        """Change keys. aioquic keeps no old ones: until the other side has followed, nothing else may come between."""
        path = self.wire.server._network_paths[0]
        if not self.is_updated and path.is_validated and path.addr == self.wire.client_address:
            self.is_updated = True
            self.wire.ends[side].request_key_update()
            self.wire.ends[side].send_ping(0)  # else the other side may never see the new keys

    def move(self, side: int, size: int) -> None:
        pairs = [end._cryptos[Epoch.ONE_RTT] for end in self.wire.ends]
        if pairs[0].key_phase != pairs[1].key_phase:
            return
        self.moves += 1
        self.wire.client_address = (CLIENT[0], CLIENT[1] + self.moves)
        self.wire.client.send_ping(0)  # else the server cannot know

    def change_id(self, side: int, size: int) -> None:
        self.wire.client.change_connection_id()

    def silence(self, side: int, size: int) -> None:
        loss, self.wire.loss = self.wire.loss, 1.0
        self.wire.run(0.05)
        self.wire.loss = loss

    def finish(self) -> None:
        """Mend the wire, give it time, and compare all that was said with all that was heard."""
        self.wire.loss = self.wire.duplication = 0.0
        for _ in range(60):
            self.wire.client.send_ping(0)  # as a server that lost sight of a client hears nothing else of it
            self.wire.run(0.5)
            if self._is_over():
                break
        assert self.wire.closed == []
        for (side, stream_id), said in self.said.items():
            heard = self.wire.heard[1 - side].get(stream_id, Heard())
            if said.reset is None and said.stopped is None:
                assert bytes(heard.data) == bytes(said.data)
                assert heard.ended is said.ended
            else:
                assert said.data.startswith(heard.data)
                assert heard.ended or heard.reset in (said.reset, said.stopped, 9)

    def _is_over(self) -> bool:
        return all(
            said.reset is not None
            or said.stopped is not None
            or (stream_id in self.wire.heard[1 - side]) * len(self.wire.heard[1 - side].get(stream_id, said).data)
            == len(said.data)
            for (side, stream_id), said in self.said.items()
        ) and not any(engine.unacknowledged_bytes for engine in self.wire.engines)

    def _any_stream(self, side: int) -> int | None:
        """Return a stream that this side may still send on, and that it knows of."""
        may_send = [
            stream_id
            for (sender, stream_id), said in self.said.items()
            if sender == side and not said.ended and said.reset is None and self._is_open(side, stream_id)
        ]
        return self.rng.choice(may_send) if may_send else None

    def _is_open(self, side: int, stream_id: int) -> bool:
        stream = self.wire.ends[side]._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None

    def _say(self, side: int, stream_id: int, size: int) -> None:
        data = self.rng.randbytes(size)
        self.wire.ends[side].send_stream_data(stream_id, data)
        self.said[side, stream_id].data += data


def check_engines(wire: Wire) -> None:
    for engine in wire.engines:
        check_accounts(engine)


@pytest.mark.parametrize("ours", ["client", "server", "both"])
@settings(max_examples=40)
@given(
    acts=st.lists(ACTS, min_size=5, max_size=40),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    duplication=st.sampled_from([0.0, 0.2]),
    jitter=st.sampled_from([0.0, 0.001, 0.02]),
    max_datagram_bytes=st.sampled_from([1200, 1452, 8900, 16383]),
    window_bytes=st.sampled_from([3000, 20_000, 1 << 20]),
    seed=st.integers(0, 1 << 16),
)
def test_what_was_said_is_heard_whatever_happens_on_the_way(
    ours: str,
    acts: list[Act],
    loss: float,
    duplication: float,
    jitter: float,
    max_datagram_bytes: int,
    window_bytes: int,
    seed: int,
) -> None:
    wire = Wire(
        ours,
        max_datagram_bytes,
        window_bytes,
        rng=Random(seed),
        loss=loss,
        duplication=duplication,
        jitter=jitter,
        on_step=check_engines,
    )
    play = Play(wire, Random(seed + 1))
    for act in acts:
        play.act(act)
    play.finish()
    assert all(isinstance(end, (Engine, QuicConnection)) for end in wire.ends)
