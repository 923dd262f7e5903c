"""One node of the cache, or one operation on it.

Without an operation it serves until Ctrl-C. With one (get KEY, put KEY VALUE [TTL] or delete KEY) it joins as a guest
that holds nothing, has it done by any node, prints the result and leaves; "get" exits with 1 if there is no such key.
"""

from __future__ import annotations

import argparse
import signal
import sys

import trio
from cache import Cache

import rpcnet

MISSING = "there is no such key"


async def serve(options: argparse.Namespace) -> int:
    """Hold a part of the cache until a signal says to end."""
    cache = Cache(replicas=options.replicas)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with rpcnet.Node(
            options.name,
            bind=options.bind,
            seeds=options.seed,
            tags={"role": "cache"},
            services=[cache],
            config=rpcnet.NodeConfig.local(),
        ) as node:
            cache.attach(node)
            print(f"{node.name} serves at {node.address}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cache.follow)
                await anext(signals)
                nursery.cancel_scope.cancel()
    return 0


async def operate(options: argparse.Namespace) -> int:
    """Do one operation as a guest; return the exit code."""
    async with rpcnet.Node(
        options.name, bind=options.bind, seeds=options.seed, config=rpcnet.NodeConfig.local()
    ) as node:
        with trio.fail_after(options.timeout):
            await node.registry.wait_for(1, where="role=cache")
            value = await apply(node.stub(Cache), options.operation)
    print(value)
    return int(value == MISSING)


async def apply(cache: Cache, operation: list[str]) -> str:
    """Do one operation; return what to print."""
    match operation:
        case ["put", key, value, *ttl]:
            await cache.put(key, value.encode(), float(ttl[0]) if ttl else None)
            return "written"
        case ["delete", key]:
            await cache.delete(key)
            return "deleted"
        case [_, key]:
            value_found = await cache.get(key)
            return MISSING if value_found is None else value_found.decode()
    raise AssertionError(operation)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="a name that no other node of the cluster has (default: a random one)")
    parser.add_argument("--bind", default="127.0.0.1:0", help="address and UDP port (%(default)s)")
    parser.add_argument("--seed", action="append", default=[], help="a node to join through; may be repeated")
    parser.add_argument("--replicas", type=int, default=2, help="on how many nodes a key lives (%(default)s)")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for one operation (%(default)s)")
    parser.add_argument("operation", nargs="*", help="get KEY | put KEY VALUE [TTL] | delete KEY")
    options = parser.parse_args()
    match options.operation:
        case []:
            program = serve
        case ["get", _] | ["put", _, _] | ["put", _, _, _] | ["delete", _]:
            program = operate
        case _:
            parser.error("an operation is one of: get KEY, put KEY VALUE [TTL], delete KEY")
    return trio.run(program, options)


if __name__ == "__main__":
    sys.exit(main())
