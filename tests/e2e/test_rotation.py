"""Nodes of an organisation's own authority, on real sockets: certificates change while connections live."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
import trio
from _peer import PATIENCE, config, eventually
from cryptography import x509

import rpcnet
from _pki import GOSSIP_KEY, Authority, Files, root
from rpcnet._core.keyring import GossipKey
from rpcnet._net.identity import _Files


@rpcnet.service
class Echo:
    """Says what it heard."""

    @rpcnet.rpc
    async def say(self, word: str) -> str:
        return word


def write(folder: Path, authority: Authority, name: str, *, trusted: bytes | None = None) -> Files:
    return Files(folder / name).write(ca=trusted or authority.pem, leaf=authority.leaf(name), keys=GOSSIP_KEY)


def node(files: Files, name: str, *seeds: str, services: tuple[object, ...] = ()) -> rpcnet.Node:
    return rpcnet.Node(name, seeds=seeds, services=services, security=files.security(), config=config())


def issuer_shown(client: rpcnet.Node, server: rpcnet.Node) -> x509.Name:
    """Return who issued the certificate that a client was shown on its connection with a server."""
    assert client._parts is not None
    session = client._parts.endpoint.session(server.address, server.name)
    assert session is not None
    certificate, _ = session.link.engine.peer_certificates
    assert certificate is not None
    return certificate.issuer


def look_again(node: rpcnet.Node) -> None:
    """Have a node look at its files when it opens or accepts the next connection, as it would a second later."""
    assert isinstance(node._security, _Files)
    node._security._files._looked_at = float("-inf")


async def test_certificates_are_replaced_on_disk_while_a_connection_lives(tmp_path: Path) -> None:
    old, new = root("old"), root("new")
    both = old.pem + new.pem
    server_files = write(tmp_path, old, "server")
    first_files, second_files = (
        write(tmp_path, old, "first", trusted=both),
        write(tmp_path, new, "second", trusted=both),
    )
    with trio.fail_after(PATIENCE):
        async with (
            node(server_files, "server", services=(Echo(),)) as server,
            node(first_files, "first", server.address) as first,
        ):
            stub = first.stub(Echo)
            assert await stub.say("before") == "before"
            assert issuer_shown(first, server) == old.own.certificate.subject
            with pytest.raises(rpcnet.JoinError) as refused:
                async with node(second_files, "second", server.address):
                    raise AssertionError("its authority is not trusted yet")
            assert "not issued by an authority that is trusted here" in str(refused.value)

            server_files.write(ca=both, leaf=new.leaf("server"))
            look_again(server)
            async with node(second_files, "second", server.address) as second:
                assert await second.stub(Echo).say("from another authority") == "from another authority"
                assert issuer_shown(second, server) == new.own.certificate.subject
            assert await stub.say("on the old connection") == "on the old connection"
            assert issuer_shown(first, server) == old.own.certificate.subject


async def test_a_peer_of_an_authority_that_was_taken_out_keeps_its_connection_and_gets_no_new_one(
    tmp_path: Path,
) -> None:
    old, new = root("old"), root("new")
    both = old.pem + new.pem
    server_files, late_files = write(tmp_path, old, "server", trusted=both), write(tmp_path, old, "late", trusted=both)
    with trio.fail_after(PATIENCE):
        async with (
            node(server_files, "server", services=(Echo(),)) as server,
            node(write(tmp_path, old, "early", trusted=both), "early", server.address) as early,
        ):
            assert await early.stub(Echo).say("before") == "before"
            server_files.write(ca=new.pem, leaf=new.leaf("server"))
            look_again(server)
            with pytest.raises(rpcnet.JoinError) as refused:
                async with node(late_files, "late", server.address):
                    raise AssertionError("its authority is not trusted any more")
            assert f"{server.address} refused this node: the peer's certificate was not issued" in str(refused.value)
            assert await early.stub(Echo).say("after") == "after"


async def test_a_node_must_be_called_what_its_certificate_says(tmp_path: Path) -> None:
    files = write(tmp_path, root(), "server")
    with pytest.raises(rpcnet.SecurityError, match="node name 'other': the certificate stands for node 'server'"):
        async with node(files, "other"):
            raise AssertionError("it is not that node")


async def test_a_node_needs_gossip_keys(tmp_path: Path) -> None:
    authority = root()
    files = Files(tmp_path / "server").write(ca=authority.pem, leaf=authority.leaf("server"))
    with pytest.raises(rpcnet.SecurityError, match="pass gossip_keys="):
        async with node(files, "server"):
            raise AssertionError("nobody could hear it")


def ring(node: rpcnet.Node) -> list[int]:
    return [key.key_id for key in node._running.endpoint.keys.desk.ring.list()]


async def test_gossip_keys_are_rotated_in_the_file_of_one_node_and_the_others_follow(tmp_path: Path) -> None:
    authority, new = root(), base64.b64encode(bytes(range(100, 132))).decode()
    old_id, new_id = (GossipKey.of(base64.b64decode(line)).key_id for line in (GOSSIP_KEY, new))
    files = write(tmp_path, authority, "first")
    with trio.fail_after(PATIENCE):
        async with (
            node(files, "first") as first,
            node(write(tmp_path, authority, "second"), "second", first.address) as second,
        ):
            for lines, expected in (
                (f"{GOSSIP_KEY}\n{new}", [old_id, new_id]),
                (f"{new}\n{GOSSIP_KEY}", [new_id, old_id]),
                (new, [new_id]),
            ):
                files.write(keys=lines)
                look_again(first)
                first._running.endpoint.keys.look()
                assert ring(first) == expected
                await second.join([first.address])
                assert ring(second) == expected
            report = await second.keys.list()
            assert report.is_complete
            assert report.nodes["first"].changes == 3
            late = write(tmp_path, authority, "late")
            async with node(late, "late", first.address) as third:
                assert ring(third) == [new_id]
            heard = second.statistics().sealing.opened
            await eventually(lambda: second.statistics().sealing.opened > heard)


async def test_keys_that_were_changed_for_all_nodes_give_way_to_a_file_that_changes_later(tmp_path: Path) -> None:
    authority, other = root(), base64.b64encode(bytes(range(100, 132))).decode()
    files = write(tmp_path, authority, "first")
    with trio.fail_after(PATIENCE):
        async with (
            node(files, "first") as first,
            node(write(tmp_path, authority, "second"), "second", first.address) as second,
        ):
            report = await second.keys.install(bytes(range(50, 82)))
            assert report.is_complete
            look_again(first)
            first._running.endpoint.keys.look()
            assert len(ring(first)) == 2
            files.write(keys=f"{GOSSIP_KEY}\n{other}")
            look_again(first)
            report = await first.keys.use(GossipKey.of(base64.b64decode(GOSSIP_KEY)).key_id)
            assert report.is_complete
            assert ring(second) == ring(first)
            assert GossipKey.of(base64.b64decode(other)).key_id in ring(second)
            assert len(ring(second)) == 2


async def test_nodes_with_other_gossip_keys_do_not_hear_each_other(tmp_path: Path) -> None:
    authority = root()
    server_files = write(tmp_path, authority, "server")
    client_files = write(tmp_path, authority, "client")
    client_files.write(keys=base64.b64encode(os.urandom(32)).decode())
    with trio.fail_after(PATIENCE):
        async with node(server_files, "server") as server:
            assert server._parts is not None
            statistics = server._parts.endpoint.sealing_statistics
            async with node(client_files, "client", server.address):
                await eventually(lambda: statistics().unknown_key + statistics().forged > 0)
    assert statistics().opened == 0


async def test_a_certificate_alone_does_not_get_anybody_the_gossip_keys(tmp_path: Path) -> None:
    authority = root()
    client_files = write(tmp_path, authority, "client")
    client_files.write(keys=base64.b64encode(bytes(range(150, 182))).decode())
    with trio.fail_after(PATIENCE):
        async with (
            node(write(tmp_path, authority, "server"), "server") as server,
            node(client_files, "client", server.address) as client,
        ):
            before = ring(client)
            report = await server.keys.install(bytes(range(100, 132)))
            assert "client has another key ring, and none of the keys" in str(report.errors["client"])
            assert not report.is_complete
            await client.join([server.address])
            assert ring(client) == before
            await client.keys.install(bytes(range(50, 82)))
            await client.keys.use(ring(client)[1], force=True)
            await server.join([client.address])
            assert len(ring(server)) == 2
            assert not {*ring(server)} & {*ring(client)}
