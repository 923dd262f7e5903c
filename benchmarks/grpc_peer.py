"""The grpc.aio side of the benchmark: the same echo, over TLS with certificates made for the session.

Needs grpcio (``pip install 'rpcnet[bench]'``). Handlers are generic and pass bytes through, so no stubs are generated
and no time is spent on protobuf: what is measured is grpc's own cost. Both sides authenticate with certificates, as in
rpcnet.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import attrs
import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from measure import PAYLOAD_BYTES, Load, Meter, Usage, usage

WARM_UP_SECONDS = 1.0
_USAGE = struct.Struct("!dQ")


def make_certificates(directory: Path) -> None:
    """Write an authority's certificate and a key with certificate for each side, good for a day."""
    authority = ec.generate_private_key(ec.SECP256R1())
    root = _certificate("benchmark authority", authority, "benchmark authority", authority, is_authority=True)
    _write(directory / "ca.pem", root)
    for side in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(directory / f"{side}.pem", _certificate(side, key, "benchmark authority", authority, is_authority=False))
        (directory / f"{side}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _usage(_request: bytes, _context: Any) -> bytes:
    used = usage()
    return _USAGE.pack(used.cpu_seconds, used.rss_bytes)


async def serve(directory: Path) -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Usage": grpc.unary_unary_rpc_method_handler(_usage),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    credentials = grpc.ssl_server_credentials(
        [((directory / "server.key").read_bytes(), (directory / "server.pem").read_bytes())],
        root_certificates=(directory / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


async def load(address: str, in_flight: int, seconds: float, directory: Path) -> Load:
    """Keep calls in flight for some time, after a warm-up, and measure."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(directory / "ca.pem").read_bytes(),
        private_key=(directory / "client.key").read_bytes(),
        certificate_chain=(directory / "client.pem").read_bytes(),
    )
    async with grpc.aio.secure_channel(address, credentials) as channel:
        await channel.channel_ready()
        return await _measure(channel.unary_unary("/bench.Echo/Echo"), channel, in_flight, seconds)


async def _measure(echo: Any, channel: Any, in_flight: int, seconds: float) -> Load:
    meter = Meter()
    end = math.inf

    async def server_usage() -> Usage:
        return Usage(*_USAGE.unpack(await channel.unary_unary("/bench.Echo/Usage")(b"")))

    async def caller(number: int) -> None:
        filler = number.to_bytes(PAYLOAD_BYTES - 8, "big")
        count = 0
        while (began := time.perf_counter()) < end:
            count += 1
            data = count.to_bytes(8, "big") + filler
            if await echo(data) != data:
                raise AssertionError("the answer is not what was sent")
            meter.durations.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(in_flight):
            group.create_task(caller(number))
        await asyncio.sleep(WARM_UP_SECONDS)
        meter.start(await server_usage())
        await asyncio.sleep(seconds)
        meter.stop()
        measured = meter.load(in_flight, await server_usage())
        end = 0.0
    return measured


def main() -> None:
    """Make certificates, serve or load, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["certificates", "serve", "load"])
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--address", default="")
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    if options.role == "certificates":
        make_certificates(options.directory)
    elif options.role == "serve":
        asyncio.run(serve(options.directory))
    else:
        measured = asyncio.run(load(options.address, options.in_flight, options.seconds, options.directory))
        print(json.dumps(attrs.asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
