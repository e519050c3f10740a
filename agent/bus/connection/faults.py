"""Reports the faults of connections: servers that cannot be reached, and operations that a server refuses."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence

import structlog

from agent.bus.connection.errors import describe
from agent.bus.connection.settings import shown
from agent.core.faults.tracker import ReportFaults
from protocol import permissions, streams
from protocol.status import Fault

VIOLATION_STANDS = 90.0
"""Seconds for which a refused publication counts as a fault. The agent retries the publication sooner than that."""

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)

log = structlog.get_logger()


def bus_disconnected(servers: Sequence[str], reasons: Mapping[str, str]) -> Fault:
    """Return the fault of an unreachable bus; `reasons` has one for each server that was tried."""
    remedy = (
        "start the server (or restart it where it hangs), let TCP to its port through packet filters, or correct [bus] "
        "in the settings; the agent goes on trying"
    )
    causes = [one if len(servers) == 1 else f"{server}: {one}" for server, one in reasons.items()]
    return Fault("bus_disconnected", ", ".join(servers), "; ".join(causes), remedy)


def permission_violation(host: str, error: str) -> Fault | None:
    """Return the fault for a server's error about a missing permission, None if the error is about something else.

    The client library turns the server's words to lower case, subjects too.
    """
    found = _VIOLATION.search(error)
    if found is None:
        return None
    allowed = permissions.of_host(host)
    known = {one.lower(): one for one in (*allowed.publish, *allowed.subscribe)}
    subject = known.get(found[2].lower(), found[2])
    act = "publish" if found[1].lower() == "publish" else "subscribe"
    return Fault(
        "permission_violation",
        subject,
        f"the server does not let this host {act} to {subject}",
        f"give the nkey of host {host} the permissions of docs/operations.md, or use this host's own seed file",
    )


class ConnectionFaults:
    """The faults of one host's connections, one after another."""

    def __init__(self, host: str, servers: Sequence[str], report: ReportFaults) -> None:
        self._host = host
        self._servers = [shown(one) for one in servers]
        self._report = report
        self._unreachable: dict[str, str] = {}
        """Why each server could not be reached when it was tried last, since the last connection."""
        self._violations: dict[str, tuple[Fault, float]] = {}
        """Operations that the server refused, by subject, with the time of the last refusal."""

    def connected(self) -> None:
        """Record that a new connection was made."""
        self._violations.clear()
        self._unreachable.clear()
        self._report("bus", [])

    def disconnected(self, server: str, reason: str) -> None:
        """Report why each server that was tried is unreachable: one fault, which the next attempt does not change."""
        self._unreachable[shown(server)] = reason
        self._report("bus", [bus_disconnected(self._servers, self._unreachable)])

    def on_error(self, error: Exception) -> None:
        """Report an error from the library."""
        fault = permission_violation(self._host, str(error))
        if fault is None:
            log.warning("bus_error", reason=describe(error))
            return
        if fault.subject == streams.pause_subject(self._host):
            log.info("pause_advisories_not_permitted", subject=fault.subject)
            return
        lasting = "subscribe to" in fault.detail
        self._violations[fault.subject] = (fault, math.inf if lasting else time.monotonic())
        self.report_violations()

    def report_violations(self) -> None:
        """Report refused operations; a refused subscription is not tried again on this connection."""
        oldest = time.monotonic() - VIOLATION_STANDS
        for subject, (_, at) in list(self._violations.items()):
            if at < oldest:
                del self._violations[subject]
        self._report("permissions", [fault for fault, _ in self._violations.values()])
