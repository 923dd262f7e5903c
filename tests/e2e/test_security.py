"""Who may join and who may not, on real sockets: refused before any handler runs, and told why."""

from __future__ import annotations

import hashlib
import logging
import stat
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from _peer import PATIENCE, Peer, config, eventually
from _processes import PROGRAM, processes
from _raw_client import raw_client
from aioquic import tls
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import rpcnet
from rpcnet._core.framing import FrameKind
from rpcnet._net.identity import Credentials, _SharedSecret
from rpcnet._net.quic import CLOSE_UNAUTHENTICATED

SECRET = "q8ZtL2vXk0Rw7mYpB4sNcHdG"
OTHER_SECRET = "Gq7_bYt2-VnXw5Zr9KdLm1sT"
DAY = 86400.0


@rpcnet.service
class Counter:
    """Counts its calls; its only method has the number 0."""

    def __init__(self) -> None:
        self.count = 0

    @rpcnet.rpc
    async def ask(self) -> int:
        self.count += 1
        return self.count


def security(secret: str = SECRET, cluster: str = "rpcnet") -> rpcnet.Security:
    return rpcnet.Security.shared_secret(secret, cluster=cluster)


def node(name: str, *seeds: str, who: rpcnet.Security | None = None, **settings: object) -> rpcnet.Node:
    settings = {"config": config(), **settings}
    return rpcnet.Node(name, seeds=seeds, security=who or security(), **settings)  # type: ignore[arg-type]


# --- what the server makes of a client


def good() -> Credentials:
    return security().issue("mallory")


def of_another_secret() -> Credentials:
    return security(OTHER_SECRET).issue("mallory")


def of_another_cluster() -> Credentials:
    return security(cluster="other").issue("mallory")


def with_the_name_of_another_cluster() -> Credentials:
    forger = security()
    forger._cluster = "other"
    return forger.issue("mallory")


def expired() -> Credentials:
    return security().issue("mallory", now=time.time() - 30 * DAY)


def not_valid_yet() -> Credentials:
    return security().issue("mallory", now=time.time() + 30 * DAY)


async def test_a_raw_client_with_good_credentials_is_served_so_the_refusals_below_mean_something() -> None:
    counter = Counter()
    with trio.fail_after(PATIENCE):
        async with node("server", services=[counter]) as server, raw_client(server.address, good()) as client:
            assert (await client.answer(1)).kind == FrameKind.RESULT
    assert counter.count == 1


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda: None, "the peer sent no certificate"),
        (of_another_secret, "the peer's certificate was not issued for cluster 'rpcnet' with this secret"),
        (of_another_cluster, "the peer's certificate was not issued for cluster 'rpcnet' with this secret"),
        (with_the_name_of_another_cluster, "the peer belongs to cluster 'other', not to 'rpcnet'"),
        (expired, "the peer's certificate has expired"),
        (not_valid_yet, "the peer's certificate is not valid yet; compare the clocks of both machines"),
    ],
    ids=["no certificate", "another secret", "another cluster", "another cluster's name", "expired", "too early"],
)
async def test_a_client_that_cannot_prove_who_it_is_is_refused_with_the_reason_and_nothing_runs(
    forge: Callable[[], Credentials | None], why: str
) -> None:
    counter = Counter()
    with trio.fail_after(PATIENCE):
        async with node("server", services=[counter]) as server, node("friend", server.address) as friend:
            async with raw_client(server.address, forge()) as client:
                end = await client.until_terminated()
            assert (end.error_code, end.frame_type) == (CLOSE_UNAUTHENTICATED, None)
            assert end.reason_phrase == why
            assert client.frames == []
            assert server.statistics().quic.unauthenticated == 1
            assert await friend.stub(Counter).ask() == 1
            assert friend.registry.get("mallory") is None
    assert counter.count == 1


async def test_a_client_whose_key_does_not_match_its_certificate_is_refused_and_nothing_runs() -> None:
    counter = Counter()
    with trio.fail_after(PATIENCE):
        async with node("server", services=[counter]) as server, node("friend", server.address) as friend:
            async with raw_client(server.address, good(), private_key=Ed25519PrivateKey.generate()) as client:
                end = await client.until_terminated()
            assert end.error_code == 0x100 + tls.AlertDescription.decrypt_error
            assert client.frames == []
            assert await friend.stub(Counter).ask() == 1
    assert counter.count == 1


async def test_a_client_of_another_protocol_is_refused_and_nothing_runs() -> None:
    counter = Counter()
    with trio.fail_after(PATIENCE):
        async with node("server", services=[counter]) as server:
            async with raw_client(server.address, good(), alpn="h3") as client:
                end = await client.until_terminated()
            assert end.error_code == 0x100 + tls.AlertDescription.no_application_protocol
    assert counter.count == 0


# --- what the dialler is told


async def test_nodes_that_do_not_belong_get_a_join_error_that_says_so() -> None:
    strangers = [security(OTHER_SECRET), security(cluster="other")]
    patient = attrs.evolve(config(), join_timeout=3.0)
    errors: dict[str, rpcnet.JoinError] = {}
    with trio.fail_after(PATIENCE):
        async with node("server", services=[Counter()]) as server:

            async def join(stranger: rpcnet.Security) -> None:
                with pytest.raises(rpcnet.JoinError) as caught:
                    await rpcnet.Node("s", seeds=[server.address], security=stranger, config=patient).__aenter__()
                errors[stranger.cluster] = caught.value

            async with trio.open_nursery() as nursery:
                for stranger in strangers:
                    nursery.start_soon(join, stranger)
            for cluster, error in errors.items():
                answer = f"the peer's certificate was not issued for cluster {cluster!r} with this secret"
                assert error.answers == {server.address: answer}
                assert str(error) == f"no seed could be joined within 3.0 s: {server.address}: {answer}"
            assert sorted(errors) == ["other", "rpcnet"]
            assert [info.name for info in server.registry.nodes()] == ["server"]


class Impersonator(_SharedSecret):
    """The security of a member, but for the certificates it shows, which the test chooses."""

    def __init__(self) -> None:
        super().__init__(SECRET.encode(), "rpcnet", loopback_only=False)
        self.forge: Callable[[], Credentials] | None = None

    def issue(self, name: str, now: float | None = None) -> Credentials:
        shown = super().issue(name, now) if self.forge is None else self.forge()
        return attrs.evolve(shown, renew_after=0.0)  # so that every connection asks for a new one


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (of_another_secret, "the peer's certificate was not issued for cluster 'rpcnet' with this secret"),
        (expired, "the peer's certificate has expired"),
        (with_the_name_of_another_cluster, "the peer belongs to cluster 'other', not to 'rpcnet'"),
        (lambda: attrs.evolve(good(), private_key=Ed25519PrivateKey.generate()), ""),
    ],
    ids=["another secret", "expired", "another cluster's name", "another key"],
)
async def test_a_call_from_a_node_that_cannot_prove_who_it_is_ends_as_unauthenticated_with_the_reason(
    forge: Callable[[], Credentials], why: str
) -> None:
    counter, member = Counter(), Impersonator()
    with trio.fail_after(PATIENCE):
        async with (
            node("server", services=[counter]) as server,
            node("member", server.address, who=member) as client,
        ):
            member.forge = forge
            for _ in range(2):
                with pytest.raises(rpcnet.Unauthenticated) as caught:
                    await client.stub(Counter).ask()
                assert f"{server.address} refused this node: {why}" in caught.value.message
                assert caught.value.never_ran
            assert counter.count == 0
            member.forge = None
            assert await client.stub(Counter).ask() == 1


@pytest.mark.parametrize(
    ("impostor", "why"),
    [
        (security(OTHER_SECRET), "the peer's certificate was not issued for cluster 'rpcnet' with this secret"),
        (security(), "{address} is node 'impostor', not 'server'"),
    ],
    ids=["another secret", "another name"],
)
async def test_an_impostor_at_the_address_of_a_node_is_not_called(impostor: rpcnet.Security, why: str) -> None:
    counter = Counter()
    with trio.fail_after(PATIENCE):
        async with node("client") as client:
            async with node("server", client.address, services=[Counter()]) as server:
                await client.registry.wait_for(2)
                address = server.address
                server._kill()
            async with node("impostor", bind=address, services=[counter], who=impostor):
                with pytest.raises((rpcnet.Unauthenticated, rpcnet.NoWorkers)) as caught:
                    await client.stub(Counter, node="server").ask()
            # a ping may have found out first that the address is another node's
            gone = "node 'server', which Counter.ask was to be called on, is failed"
            assert str(caught.value) in (why.format(address=address), gone)
    assert counter.count == 0


# --- two clusters


@pytest.mark.parametrize(
    "other", [security(OTHER_SECRET), security(cluster="other")], ids=["another secret", "another name"]
)
async def test_two_clusters_that_have_each_other_for_seeds_never_merge(other: rpcnet.Security) -> None:
    patient = attrs.evolve(config(), join="background", gossip=attrs.evolve(config().gossip, heal_interval=0.5))

    def member(name: str, bind: str, *seeds: str, who: rpcnet.Security) -> rpcnet.Node:
        return rpcnet.Node(name, bind=bind, seeds=seeds, security=who, services=[Peer(name)], config=patient)

    with trio.fail_after(PATIENCE):
        async with (
            member("x1", "127.0.0.1:0", who=security()) as x1,
            member("y1", "127.0.0.1:0", x1.address, who=other) as y1,
            member("x2", "127.0.0.1:0", x1.address, y1.address, who=security()) as x2,
            member("y2", "127.0.0.1:0", x2.address, y1.address, who=other) as y2,
        ):
            for one in (x1, x2, y1, y2):
                await one.registry.wait_for(2)
            before = y1.statistics().quic.unauthenticated
            assert before > 0
            await eventually(lambda: y1.statistics().quic.unauthenticated > before)
            for one, mine in ((x1, "x"), (x2, "x"), (y1, "y"), (y2, "y")):
                assert [info.name for info in one.registry.nodes()] == [f"{mine}1", f"{mine}2"]
                assert await one.stub(Peer, node=f"{mine}1").who() == f"{mine}1"


# --- the secret of this user


RACER = """
import os, sys
sys.path.insert(0, {folder!r})
import rpcnet, rpcnet._net.secrets_file, _peer, trio
print("ready", flush=True)
sys.stdin.readline()
security = rpcnet.Security.default()
print("made", flush=True)
seed = sys.stdin.readline().strip()
trio.run(_peer._serve, sys.argv[1], [seed] if seed else [])
"""


async def test_processes_that_make_the_users_secret_at_the_same_moment_make_one_and_join(tmp_path: Path) -> None:
    program = tmp_path / "racer.py"
    program.write_text(RACER.format(folder=str(PROGRAM.parent)), encoding="utf-8")
    with trio.fail_after(PATIENCE), processes("") as started:
        started.environment["XDG_DATA_HOME"] = str(tmp_path / "data")
        racers = [started.start(name, program=(str(program),)) for name in ("one", "two", "three")]
        for racer in racers:
            assert await racer.address() == "ready"
        for racer in racers:
            racer.write_line("go")
        for racer in racers:
            assert await racer.address() == "made"
        seed = ""
        for racer in racers:
            racer.write_line(seed)
            seed = await racer.address()
        [file] = (tmp_path / "data" / "rpcnet").iterdir()
        secret = file.read_text(encoding="ascii").strip()
        async with rpcnet.Node("test", seeds=[seed], security=security(secret), config=config()) as test:
            await test.registry.wait_for(4)
            for racer in racers:
                assert await test.stub(Peer, node=racer.name).who() == racer.name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


# --- nothing is said


async def test_no_log_no_error_and_no_repr_shows_a_secret_or_a_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("quic", "rpcnet", "rpcnet.quic", "rpcnet.rpc"):
        caplog.set_level(logging.DEBUG, logger=name)
    said: list[object] = []
    ours = security()
    with trio.fail_after(PATIENCE):
        async with (
            node("server", services=[Faulty()], who=ours) as server,
            node("friend", server.address, who=ours) as friend,
        ):
            with pytest.raises(rpcnet.Internal) as internal:
                await friend.stub(Faulty).fail()
            brief = attrs.evolve(config(), join_timeout=1.0)
            with pytest.raises(rpcnet.JoinError) as refused:
                await node("stranger", server.address, who=security(OTHER_SECRET), config=brief).__aenter__()
            async with raw_client(server.address, of_another_secret()) as client:
                await client.until_terminated()
            said += [ours, server, friend, friend.registry.nodes(), server.statistics(), ours.gossip_keys]
            said += [internal.value, refused.value, refused.value.answers, friend._parts, ours.issue("x")]
    with pytest.raises(rpcnet.SecurityError) as weak:
        rpcnet.Security.shared_secret("a weak one")
    text = caplog.text + "\n".join(f"{each} {each!r}" for each in [*said, weak.value])
    assert "Faulty.fail failed for friend" in text
    assert "was not issued for cluster" in text
    assert "a weak one" not in text
    for secret in (SECRET, OTHER_SECRET):
        made = security(secret)
        assert isinstance(made, _SharedSecret)
        assert secret not in text
        for key in (made.gossip_keys[0].secret, made._ca.private_bytes_raw(), hashlib.sha256(secret.encode()).digest()):
            assert key.hex() not in text.lower()
            assert repr(key)[2:-1] not in text


@rpcnet.service
class Faulty:
    """Raises what no caller should see."""

    @rpcnet.rpc
    async def fail(self) -> None:
        raise ValueError("a bug in a handler")
