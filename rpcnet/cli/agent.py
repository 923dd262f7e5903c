"""``rpcnet agent``: a member of the cluster without services of its own, as a process."""

from __future__ import annotations

from ._options import (
    DEFAULT_BIND,
    AdvertiseOption,
    AuthorityOption,
    BindOption,
    CertificateOption,
    DrainTimeoutOption,
    GossipKeysOption,
    JsonOption,
    KeyOption,
    NameOption,
    NodeOptions,
    Profile,
    ProfileOption,
    SeedOption,
    TagOption,
    config_of,
    security_of,
)
from ._output import Output
from ._running import run_until_signal
from ._serving import serve

__all__ = ["agent"]


def agent(
    *,
    name: NameOption = None,
    bind: BindOption = DEFAULT_BIND,
    advertise: AdvertiseOption = None,
    seeds: SeedOption = None,
    tags: TagOption = None,
    profile: ProfileOption = Profile.LAN,
    drain_timeout: DrainTimeoutOption = None,
    ca: AuthorityOption = None,
    cert: CertificateOption = None,
    key: KeyOption = None,
    gossip_keys: GossipKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be a member of a cluster, and print what happens in it.

    The first line says that the node is ready, with its name and its address. Then comes a line per event, those of
    the members already known first.

    The secret of the cluster is taken from RPCNET_SECRET, or from the user's file. With --ca, --cert, --key and
    --gossip-keys there is none.

    SIGTERM and SIGINT make the node leave in good order: exit code 0 after SIGTERM, 130 after SIGINT. A second signal
    ends the process at once.
    """

    async def run() -> int:
        config = config_of(profile, drain_timeout)
        security = security_of(ca, cert, key, gossip_keys)
        node = NodeOptions(name, bind, advertise, seeds, tags, config, security).node()
        return await serve(node, drain_timeout=config.drain_timeout, output=Output(as_json=as_json), shows_events=True)

    run_until_signal(run)
