"""What a host tells is as long as the bus takes, whatever happens."""

from __future__ import annotations

import msgspec

from agent.core.config.registry import DocumentStatus, Registry
from agent.core.config.truncation import first_lines, listed
from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.nexthop.next_hops import Reason
from agent.datapath.nexthop.neighbours import Unresolved
from agent.reconcile.acknowledgements import acknowledgement
from agent.report.status_messages import MOST_ADDRESSES, gso_refused, losses_at_tc, unresolved_next_hops
from protocol.acknowledgements import KernelFailure, Reference, State
from protocol.documents import Droplet
from protocol.errors import ErrorCode, FieldError
from protocol.status import UnresolvedNextHops


def test_each_reason_is_reported_with_its_droplets_the_most_frequent_first() -> None:
    found = [Unresolved("10.0.0.1", Reason.NO_ROUTE.value)]
    found += [Unresolved(f"10.0.1.{number}", Reason.TABLE_FULL.value) for number in (1, 2)]
    assert unresolved_next_hops(found) == (
        UnresolvedNextHops(Reason.TABLE_FULL.value, 2, ("10.0.1.1", "10.0.1.2")),
        UnresolvedNextHops(Reason.NO_ROUTE.value, 1, ("10.0.0.1",)),
    )


def test_no_unresolved_next_hop_means_no_report() -> None:
    assert unresolved_next_hops([]) == ()


def test_of_very_many_the_first_are_named_and_all_are_counted() -> None:
    """A heartbeat of 65,536 addresses would be longer than the bus takes."""
    (found,) = unresolved_next_hops(Unresolved(f"2001:db8::{n:x}", "why") for n in range(65536))
    assert (found.droplets, len(found.addresses)) == (65536, MOST_ADDRESSES)


def test_of_very_many_errors_in_a_document_the_first_are_listed_and_all_are_counted() -> None:
    """A document of a mebibyte holds ten thousand endpoints, and each may have several errors."""
    status = DocumentStatus(
        *("many", 7, State.FAILED, 6),
        missing=tuple(Reference("networks", f"n{number}") for number in range(102)),
        errors=tuple(FieldError(f"endpoints[{number}].mac", ErrorCode.INVALID, "no") for number in range(10_000)),
        failures=tuple(KernelFailure(12, "ENOMEM", f"endpoint {number}", "no memory") for number in range(103)),
    )
    found = acknowledgement(status, 0.0, None)
    assert (len(found.missing), found.missing[-1]) == (101, Reference("and", "2 more"))
    assert (len(found.errors), found.errors[-1].message) == (101, "and 9900 more wrong fields")
    assert (len(found.failures), found.failures[-1].object) == (101, "3 more")


def test_errors_that_were_truncated_during_decoding_are_reported_unchanged() -> None:
    droplets = [{"id": f"d{number}", "host": "h", "address": "nowhere"} for number in range(5000)]
    registry = Registry()
    registry.put("many", 1, msgspec.msgpack.encode({"droplets": droplets}))
    status = registry.status("many")
    assert acknowledgement(status, 0.0, None).errors == status.errors


def test_a_very_long_name_is_truncated_in_reports() -> None:
    registry = Registry()
    registry.put("long", 1, msgspec.msgpack.encode({"x" * 900_000: 1}))
    (error,) = acknowledgement(registry.status("long"), 0.0, None).errors
    assert len(error.path) + len(error.message) < 3000


def test_an_acknowledgement_lists_all_of_a_few_errors() -> None:
    missing = (Reference("networks", "a"), Reference("networks", "b"))
    assert acknowledgement(DocumentStatus("few", 7, State.PENDING, 0, missing=missing), 0.0, None).missing == missing


def test_an_event_has_a_bounded_number_of_lines() -> None:
    assert first_lines(["a", "b"]) == ("a", "b")
    assert first_lines(["a"] * 102)[-2:] == ("a", "and 2 more")


def test_kernel_refusals_are_retried_and_missing_interfaces_are_not() -> None:
    refused, lacks = KernelFailure(2, "ENOENT", "endpoint a", ""), KernelFailure(90, "EMSGSIZE", "endpoint b", "")
    both = acknowledgement(DocumentStatus("x", 7, State.FAILED, 6, failures=(refused,), lacking=(lacks,)), 0.0, 5.0)
    assert (both.failures, both.retry_at) == ((refused, lacks), 5.0)
    assert acknowledgement(DocumentStatus("x", 7, State.FAILED, 6, lacking=(lacks,)), 0.0, 5.0).retry_at is None
    assert acknowledgement(DocumentStatus("x", 7, State.REALIZED, 7), 0.0, 5.0).retry_at is None


def test_a_text_names_the_first_of_many_and_counts_the_others() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


def sending_checksums(number: int, hook: Hook) -> ResolvedState:
    droplets = {f"d{i:02}": Droplet(f"d{i:02}", "h1", f"2001:db8::{i + 1:x}") for i in range(number)}
    host_state = HostState("h1", "test", (), Features(), endpoint_hook=hook)
    return ResolvedState(host_state, own=droplets, summing=frozenset(droplets))


def test_droplets_that_keep_endpoints_from_sending_gso_packets_are_named_the_first_of_many() -> None:
    assert gso_refused(sending_checksums(1, Hook.TC)).endswith("such checksums are sent from d00")
    found = gso_refused(sending_checksums(12, Hook.TC))
    assert "such checksums are sent from d00, d01," in found
    assert found.endswith("d09 and 2 more")
    assert gso_refused(sending_checksums(1, Hook.XDP)) == ""


def test_places_at_tc_whose_losses_are_not_counted_are_named() -> None:
    uplinks = {"eth0": "xdp", "eth1": "tcx", "eth2": "none"}
    assert losses_at_tc(uplinks, {"tcx": 12, "none": 3}) == "eth1 (tcx), 12 endpoints (tcx)"
    assert losses_at_tc({"eth0": "clsact"}, {"clsact": 1, "xdp": 2}) == "eth0 (clsact), 1 endpoint (clsact)"
    assert losses_at_tc({"eth0": "xdp"}, {"xdp": 4}) == ""
