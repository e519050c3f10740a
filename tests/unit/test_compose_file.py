"""The compose file and the topology that is published to its containers describe the same hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.settings import load_settings
from controller_sim.cli.publish import documents_of
from controller_sim.topology.file import read_topology
from controller_sim.topology.model import Topology

FOLDER = Path(__file__).parents[2] / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def topology() -> Topology:
    return read_topology(FOLDER / "topology.yaml")


def address(compose: dict[str, Any], service: str) -> str:
    return str(compose["services"][service]["networks"]["underlay"]["ipv4_address"])


def test_every_droplet_is_a_container_with_its_address(compose, topology):
    found = {name: address(compose, name) for name in topology.droplets}
    assert found == {name: droplet.address for name, droplet in topology.droplets.items()}


def test_the_server_is_where_the_controller_and_the_agents_look_for_it(compose, topology):
    server = topology.underlay.server
    assert address(compose, "nats") == server
    for name in topology.droplets:
        settings = load_settings(None, compose["services"][name]["environment"])
        assert settings.bus.servers == (f"tls://{server}:4222",)


def test_every_container_logs_in_as_its_own_host(compose, topology):
    for name in topology.droplets:
        settings = load_settings(None, compose["services"][name]["environment"])
        assert settings.host == name
        assert settings.bus.nkey_seed_file == f"/bus/keys/{name}.nk"


def test_the_network_is_the_underlay(compose, topology):
    assert [c["subnet"] for c in compose["networks"]["underlay"]["ipam"]["config"]] == list(topology.underlay.cidrs)


def test_every_container_makes_the_namespaces_that_its_documents_name(compose, topology):
    for host, documents in documents_of(topology).items():
        named = {
            endpoint.attachment.namespace
            for document in documents.values()
            for endpoint in document.endpoints
            if endpoint.attachment is not None
        }
        assert set(compose["services"][host].get("command", [])) == named


def test_no_container_is_privileged(compose):
    """The agent needs three capabilities, of which SYS_ADMIN contains BPF; a tenant's ping one more."""
    for name, service in compose["services"].items():
        assert not service.get("privileged"), name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("cap_add", [])) <= {"NET_ADMIN", "SYS_ADMIN", "NET_RAW"}, name
