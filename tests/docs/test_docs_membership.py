"""The reference of membership: its examples run, its tables say what the code says, and it names everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from _examples import ROOT, Player, Section, read_sections, tables_of

import rpcnet
from rpcnet import events
from rpcnet.testing import SimulatedCluster, run

PAGE = ROOT / "docs" / "membership.md"
TEXT = PAGE.read_text(encoding="utf-8")
RPC = (ROOT / "docs" / "rpc.md").read_text(encoding="utf-8")
PROFILES = (rpcnet.NodeConfig.local(), rpcnet.NodeConfig.lan(), rpcnet.NodeConfig.wan())
UNTABLED = {"ClusterEvent", "NodeEvent"}
"""Classes that are only the roots of others."""


def code(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("section", read_sections(PAGE), ids=str)
def test_the_examples_about_membership_run(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(section, tmp_path)
    monkeypatch.setenv("RPCNET_SECRET", player.secret)

    async def scenario(_: SimulatedCluster) -> None:
        await player.play()

    run(scenario)


def event_classes() -> Iterator[str]:
    for name in events.__all__:
        found = getattr(events, name)
        if isinstance(found, type) and issubclass(found, rpcnet.ClusterEvent) and name not in UNTABLED:
            yield name


def test_every_event_is_explained() -> None:
    listed = [name for first, *_ in tables_of(PAGE, "What a node hears") for name in code(first)]
    assert sorted(listed) == sorted(event_classes())


def settings(config: rpcnet.NodeConfig) -> dict[str, object]:
    return attrs.asdict(config.gossip, recurse=False) | attrs.asdict(config.detector, recurse=False)


def test_the_profiles_differ_in_what_is_listed_and_nothing_else() -> None:
    rows = [(code(name)[0], cells) for name, *cells in tables_of(PAGE, "Choosing a profile") if name]
    for name, cells in rows:
        assert [float(cell) for cell in cells] == [settings(profile)[name] for profile in PROFILES], name
    local, lan, wan = (settings(profile) for profile in PROFILES)
    differing = {name for name in lan if not local[name] == lan[name] == wan[name]}
    assert differing <= {name for name, _ in rows}


def test_every_setting_is_listed_with_its_default() -> None:
    said = {code(name)[0]: default for name, default, _ in tables_of(PAGE, "Settings")}
    fields = [
        field
        for kind in (rpcnet.GossipConfig, rpcnet.DetectorConfig, rpcnet.PartitionConfig)
        for field in attrs.fields(kind)
    ]
    assert sorted(said) == sorted(field.name for field in fields)
    for field in fields:
        factory = getattr(field.default, "factory", None)
        default = field.default if factory is None else factory()
        shown = said[field.name]
        assert code(shown)[0] == repr(default) if shown.startswith("`") else float(shown) == default, field.name


def test_every_public_name_is_explained_somewhere() -> None:
    mentioned = set(re.findall(r"\w+", TEXT)) | set(re.findall(r"\w+", RPC))
    assert [name for name in rpcnet.__all__ if name not in mentioned] == []


def test_every_strategy_for_partitions_is_in_the_table() -> None:
    listed = {code(first)[0].partition("(")[0] for first, *_ in tables_of(PAGE, "When the cluster falls apart")}
    assert listed == {kind.__name__ for kind in rpcnet.QuorumStrategy.__subclasses__()} | {"None"}


def test_every_link_of_the_page_leads_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", prose)
    assert links
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for link in links:
        where, _, anchor = link.partition("#")
        assert not where or (PAGE.parent / where).exists(), link
        assert where or anchor in headings, link
