"""Settings that are wrong are refused at once, by name, value and rule, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from _peer import PATIENCE, Peer, config

import rpcnet

SECURITY = rpcnet.Security.shared_secret("q8ZtL2vXk0Rw7mYpB4sNcHdG")


def bind_udp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((host, int(port)))
    return sock


@pytest.fixture
def free_address() -> str:
    with bind_udp("127.0.0.1:0") as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208


async def enter(**settings: Any) -> None:
    """Make and enter a node that must not come up."""
    settings = {"security": SECURITY, "config": config(), **settings}
    async with rpcnet.Node(settings.pop("name", "a"), **settings):
        pytest.fail("it came up")


class Undecorated:
    """No service."""

    async def who(self) -> str:
        return "nobody"


@rpcnet.service(name="Peer")
class Namesake:
    """Another service of the same name."""

    @rpcnet.rpc
    async def who(self) -> str:
        return "namesake"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bind": "127.0.0.1"}, "bind: address '127.0.0.1': has no port; write 'host:port'"),
        ({"bind": "127.0.0.1:x"}, "address '127.0.0.1:x': the port must be a number from 0 to 65535"),
        ({"bind": "127.0.0.1:65536"}, "address '127.0.0.1:65536': the port must be a number from 0 to 65535"),
        ({"bind": ":7946"}, "address ':7946': has no usable host; write 'host:port'"),
        ({"bind": "::1:7946"}, "address '::1:7946': an IPv6 host stands in brackets, like '[::1]:7946'"),
        ({"bind": 7946}, "address 7946: must be a string like 'host:port'"),
        ({"bind": "203.0.113.1:0"}, "bind address '203.0.113.1:0': "),
        ({"bind": "no-such-host.invalid:0"}, "bind address 'no-such-host.invalid:0': "),
        ({"advertise": "nowhere"}, "advertise: address 'nowhere': has no port; write 'host:port'"),
        ({"advertise": "10.0.0.1:0"}, "advertise: address '10.0.0.1:0': nobody can dial it; write one host and a port"),
        ({"advertise": "0.0.0.0:7946"}, "advertise: address '0.0.0.0:7946': nobody can dial it"),
        ({"seeds": "127.0.0.1:7946"}, "seeds = '127.0.0.1:7946': must be a sequence of addresses, not one string"),
        ({"seeds": ["127.0.0.1"]}, "seeds: address '127.0.0.1': has no port; write 'host:port'"),
        ({"seeds": [7946]}, "seeds: address 7946: must be a string like 'host:port'"),
        ({"seeds": ["127.0.0.1:0"]}, "seeds: address '127.0.0.1:0': nobody can dial it"),
        ({"seeds": 7946}, "seeds = 7946: must be of the kind Iterable"),
        ({"name": ""}, "name = '': must have 1 to 128 characters, has 0"),
        ({"name": "n" * 129}, "must have 1 to 128 characters, has 129"),
        ({"name": 5}, "name = 5: must be a str, not int"),
        ({"name": "\ud800"}, "must be valid Unicode"),
        ({"tags": {"k": "v" * 65536}}, "tags and services take 65546 bytes encoded, at most 65536 are allowed"),
        ({"tags": {"zone": 1}}, "tag 'zone' = 1: must be a str, not int"),
        ({"tags": {1: "zone"}}, "tag = 1: must be a str, not int"),
        ({"tags": ["zone"]}, "tags = ['zone']: must be of the kind Mapping"),
        ({"services": [Peer("a"), Peer("a")]}, "services: two services are named 'Peer'"),
        ({"services": [Peer("a"), Namesake()]}, "services: two services are named 'Peer'"),
        ({"services": [Peer]}, "services: Peer is a class; pass an object, Peer()"),
        ({"services": [Undecorated()]}, "Undecorated is not a service: decorate the class with @rpcnet.service"),
        ({"services": Peer("a")}, "services = <_peer.Peer object"),
        ({"config": {"join": "required"}}, "config = {'join': 'required'}: must be of the kind NodeConfig"),
        ({"security": "a secret"}, "security: must be a Security, not str"),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
)
async def test_a_wrong_setting_is_refused_by_name_value_and_rule_and_the_port_stays_free(
    settings: dict[str, Any], message: str, free_address: str
) -> None:
    before = open_files()
    with trio.fail_after(PATIENCE), pytest.raises(rpcnet.ConfigError) as caught:
        await enter(**{"bind": free_address, **settings})
    assert message in str(caught.value)
    assert "a secret" not in str(caught.value)
    assert open_files() == before
    bind_udp(free_address).close()


async def test_a_port_in_use_is_refused_and_named(free_address: str) -> None:
    before = open_files()
    with bind_udp(free_address), trio.fail_after(PATIENCE), pytest.raises(rpcnet.ConfigError) as caught:
        await enter(bind=free_address)
    assert str(caught.value) == f"bind address {free_address!r}: address already in use"
    assert open_files() == before


async def test_a_node_whose_join_fails_gives_its_port_back(free_address: str) -> None:
    before = open_files()
    with trio.fail_after(PATIENCE), bind_udp("127.0.0.1:0") as silent:
        seed = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(rpcnet.JoinError) as caught:
            await enter(bind=free_address, seeds=[seed], config=attrs.evolve(config(), join_timeout=0.3))
    assert str(caught.value) == f"no seed could be joined within 0.3 s: {seed}: no answer"
    assert caught.value.answers == {seed: "no answer"}
    assert open_files() == before
    bind_udp(free_address).close()


async def test_a_name_that_a_live_node_has_is_refused_and_the_first_one_keeps_it() -> None:
    with trio.fail_after(PATIENCE):
        async with rpcnet.Node("a", services=[Peer("first")], security=SECURITY, config=config()) as first:
            with pytest.raises(rpcnet.NameConflict, match=f"'a' belongs to a live node at {first.address}"):
                await enter(name="a", seeds=[first.address])
            async with rpcnet.Node("b", seeds=[first.address], security=SECURITY, config=config()) as other:
                assert await other.stub(Peer).who() == "first"


async def test_selectors_and_tags_that_are_wrong_are_refused_while_the_node_runs() -> None:
    with trio.fail_after(PATIENCE):
        async with rpcnet.Node("a", services=[Peer("a")], security=SECURITY, config=config()) as node:
            for use in selector_users(node):
                with pytest.raises(rpcnet.ConfigError, match=r"selector 'zone in \(', column \d+: "):
                    use("zone in (")
            with pytest.raises(rpcnet.ConfigError, match="selector 'zone in"):
                await node.client.call_worker("Peer.who", where="zone in (")
            with pytest.raises(rpcnet.ConfigError, match=r"method = 'who': must be 'service\.method'"):
                await node.client.call_worker("who")
            with pytest.raises(rpcnet.ConfigError, match="Undecorated is not a service"):
                node.stub(Undecorated)
            with pytest.raises(rpcnet.ConfigError, match="tags and services take 65551 bytes encoded"):
                await node.update_tags({"k": "v" * 65536})
            with pytest.raises(rpcnet.ConfigError, match="tag 'k' = 1: must be a str"):
                await node.update_tags({"k": 1})  # type: ignore[dict-item]
            with pytest.raises(rpcnet.ConfigError, match="not one string"):
                await node.join("127.0.0.1:1")
            assert dict(node.tags) == {}
            assert await node.stub(Peer).who() == "a"


def selector_users(node: rpcnet.Node) -> Iterator[Callable[[str], object]]:
    yield node.registry.where
    yield node.workers.workers
    yield node.workers.select_worker
    yield lambda text: node.stub(Peer, where=text)


# --- secrets


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RPCNET_SECRET", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


async def enter_with_default_security(**settings: Any) -> None:
    await enter(security=None, **settings)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "203.0.113.1:0", "some-host.example:0"])
async def test_the_users_own_secret_is_for_loopback_only_and_the_error_says_what_to_do(
    data_home: Path, bind: str
) -> None:
    with pytest.raises(rpcnet.SecurityError) as caught:
        await enter_with_default_security(bind=bind)
    assert str(caught.value) == (
        f"bind address {bind!r}: without a secret of its own a node binds loopback only; set RPCNET_SECRET or pass "
        "security=rpcnet.Security.shared_secret(...), the same on every machine of the cluster"
    )


@pytest.mark.parametrize(
    "secret", ["", "short", "password", "a" * 40, "abcdefgh", "0123456789", b"x" * 32, "correcthorse" * 1]
)
def test_a_weak_secret_is_refused_without_being_shown(secret: str | bytes) -> None:
    with pytest.raises(rpcnet.SecurityError) as caught:
        rpcnet.Security.shared_secret(secret)
    assert "must have at least 16 bytes of entropy" in str(caught.value)
    assert not secret or repr(secret)[1:-1] not in str(caught.value)


async def test_a_weak_secret_in_the_environment_is_refused_by_the_variables_name(
    data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPCNET_SECRET", "password1")
    with pytest.raises(rpcnet.SecurityError) as caught:
        await enter_with_default_security()
    assert str(caught.value).startswith("RPCNET_SECRET is too weak")
    assert "password1" not in str(caught.value)
    assert os.listdir(data_home) == []  # noqa: PTH208


@pytest.mark.parametrize("cluster", ["", "two words", "x" * 65, "ü", "-x"])
def test_a_cluster_name_that_is_none_is_refused(cluster: str) -> None:
    with pytest.raises(rpcnet.ConfigError, match="must be 1 to 64 letters, digits, dots, dashes or underscores"):
        rpcnet.Security.shared_secret("q8ZtL2vXk0Rw7mYpB4sNcHdG", cluster=cluster)


def readable_by_others(place: Path) -> None:
    place.write_text("q8ZtL2vXk0Rw7mYpB4sNcHdG\n", encoding="ascii")
    place.chmod(0o640)


def link(place: Path) -> None:
    readable_by_others(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")


def empty(place: Path) -> None:
    place.touch(mode=0o600)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (readable_by_others, "must not be accessible to others; run `chmod 600 {place}`"),
        (Path.mkdir, "must be a plain file"),
        (link, "oo many levels of symbolic links"),
        (empty, "must have at least 16 bytes of entropy"),
    ],
)
async def test_a_secret_file_that_is_not_safe_is_refused_by_name_and_left_alone(
    data_home: Path, spoil: Callable[[Path], object], why: str
) -> None:
    place = data_home / "rpcnet" / "secret"
    place.parent.mkdir()
    spoil(place)
    before = place.lstat()
    with pytest.raises(rpcnet.SecurityError) as caught:
        await enter_with_default_security()
    assert str(place) in str(caught.value)
    assert why.format(place=place) in str(caught.value)
    assert place.lstat() == before


async def test_a_data_directory_that_cannot_be_made_is_named(data_home: Path) -> None:
    (data_home / "rpcnet").write_text("a file where a directory should be", encoding="ascii")
    with pytest.raises(rpcnet.SecurityError) as caught:
        await enter_with_default_security()
    assert str(data_home / "rpcnet" / "secret") in str(caught.value)


async def test_the_users_own_secret_is_made_once_and_used_again(data_home: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            rpcnet.Node("a", config=config(), services=[Peer("a")]) as a,
            rpcnet.Node("b", seeds=[a.address], config=config()) as b,
        ):
            assert await b.stub(Peer).who() == "a"
    [file] = (data_home / "rpcnet").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


# --- configurations


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rpcnet.NodeConfig(join="never"), "NodeConfig.join = 'never': must be 'required' or 'background'"),  # type: ignore[arg-type]
        (lambda: rpcnet.NodeConfig(join_timeout=0), "NodeConfig.join_timeout = 0: must be a number from 0.05 to 3600"),
        (lambda: rpcnet.NodeConfig(join_timeout="1"), "NodeConfig.join_timeout = '1': must be a number"),  # type: ignore[arg-type]
        (lambda: rpcnet.NodeConfig(drain_timeout=float("nan")), "NodeConfig.drain_timeout = nan: must be a number"),
        (lambda: rpcnet.RpcConfig(lanes=0), "RpcConfig.lanes = 0: must be a whole number from 1 to 64"),
        (lambda: rpcnet.RpcConfig(lanes=True), "RpcConfig.lanes = True: must be a whole number from 1"),
        (lambda: rpcnet.RpcConfig(lanes=1.5), "RpcConfig.lanes = 1.5: must be a whole number"),  # type: ignore[arg-type]
        (
            lambda: rpcnet.GossipConfig(gossip_fanout=17),
            "GossipConfig.gossip_fanout = 17: must be a whole number from 1",
        ),
        (lambda: rpcnet.NodeConfig(rpc={}), "NodeConfig.rpc = {}: must be a RpcConfig"),  # type: ignore[arg-type]
        (
            lambda: rpcnet.NodeConfig(detector=rpcnet.DetectorConfig(probe_interval=5, pause_tolerance=1)),
            "DetectorConfig.pause_tolerance = 1: must not be below probe_interval = 5",
        ),
        (
            lambda: rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(lane_limit_bytes=8192, max_message_bytes=4096)),
            "RpcConfig.lane_limit_bytes = 8192: must not be above max_message_bytes = 4096",
        ),
        (lambda: rpcnet.SupervisionConfig(inbox_size=1), "SupervisionConfig.inbox_size = 1: must be a whole number"),
        (lambda: rpcnet.RetryPolicy(max_attempts=0), "RetryPolicy.max_attempts = 0: must be a number from 1 to 100"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_field_value_and_rule(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(rpcnet.ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)


# --- resources


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")  # noqa: PTH112
async def test_twenty_nodes_that_have_come_and_gone_leave_no_file_and_no_task() -> None:
    async def live(number: int, seed: str) -> None:
        seeds, services = [seed], [Peer(str(number))]
        async with rpcnet.Node(
            f"n{number}", seeds=seeds, services=services, security=SECURITY, config=config()
        ) as node:
            assert await node.stub(Peer, node="first").who() == "first"

    def resources() -> tuple[int, int]:
        return open_files(), trio.lowlevel.current_statistics().tasks_living

    with trio.fail_after(PATIENCE):
        outside = resources()
        async with rpcnet.Node("first", services=[Peer("first")], security=SECURITY, config=config()) as first:
            async with trio.open_nursery() as nursery:
                for number in range(19):
                    nursery.start_soon(live, number, first.address)
            assert len(first.registry.nodes()) == 20
        assert resources() == outside
