"""What a host tells is as long as the bus takes, whatever happens."""

from __future__ import annotations

import msgspec

from agent.core.config.registry import DocumentStatus, Registry
from agent.core.config.truncation import first_lines
from agent.core.nexthop.next_hops import Reason
from agent.datapath.nexthop.neighbours import Unresolved
from agent.reconcile.acknowledgements import acknowledgement
from agent.report.status_messages import MOST_ADDRESSES, unresolved_next_hops
from protocol.acknowledgements import KernelFailure, Reference, State
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
