"""The settings of the failure detector are checked against each other."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

import rpcnet
from rpcnet import DetectorConfig, GossipConfig, NodeConfig


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DetectorConfig(probe_interval=0), "probe_interval = 0: must be a number from 0.05 to 60"),
        (lambda: DetectorConfig(tick_interval=0.001), "tick_interval = 0.001: must be a number from 0.01"),
        (
            lambda: DetectorConfig(suspicion_phi=9.0),
            "DetectorConfig.suspicion_phi = 9.0: must not be above conviction_phi = 8.0",
        ),
        (
            lambda: DetectorConfig(tick_interval=0.5, pause_tolerance=0.2),
            "DetectorConfig.tick_interval = 0.5: must not be above pause_tolerance = 0.2",
        ),
        (
            lambda: NodeConfig(detector=DetectorConfig(probe_interval=3.0, pause_tolerance=2.0)),
            "DetectorConfig.pause_tolerance = 2.0: must not be below probe_interval = 3.0",
        ),
        (
            lambda: NodeConfig(gossip=GossipConfig(gossip_interval=8.0)),
            "GossipConfig.gossip_interval = 8.0: must not be above DetectorConfig.pause_tolerance = 5.0",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name_and_rule(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(rpcnet.ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_every_profile_holds_what_the_table_of_profiles_says() -> None:
    profiles = [NodeConfig.local(), NodeConfig.lan(), NodeConfig.wan()]
    assert [profile.detector.probe_interval for profile in profiles] == [0.5, 1.0, 3.0]
    assert [profile.detector.pause_tolerance for profile in profiles] == [2.0, 5.0, 10.0]
    assert [profile.detector.indirect_probes for profile in profiles] == [3, 3, 4]
    assert NodeConfig.lan() == NodeConfig()
    for profile in profiles:
        assert attrs.evolve(profile) == profile
