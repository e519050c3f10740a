"""A host's features, as the compiler gets them."""

from __future__ import annotations

from agent.core.model.features import Features, family_of


def test_by_default_everything_is_compiled_in_but_tags_and_functions() -> None:
    assert Features().flags() == (
        "-DGENEVE_PORT=6081",
        "-DVXLAN_PORT=4789",
        "-DINNER_IPV6=1",
        "-DOUTER_IPV4=1",
        "-DOUTER_IPV6=1",
        "-DVLAN_TAGS=0",
        "-DSTAGES=0",
    )


def test_disabled_features_are_compiled_out_and_the_order_stays() -> None:
    off = Features(7000, 0, frozenset({"ipv4"}), frozenset({"ipv6"}), vlan_tags=True, functions=True)
    assert off.flags() == (
        "-DGENEVE_PORT=7000",
        "-DVXLAN_PORT=0",
        "-DINNER_IPV6=0",
        "-DOUTER_IPV4=0",
        "-DOUTER_IPV6=1",
        "-DVLAN_TAGS=1",
        "-DSTAGES=1",
    )


def test_the_length_of_a_packed_address_is_its_family() -> None:
    assert [family_of(bytes(4)), family_of(bytes(16))] == ["ipv4", "ipv6"]
