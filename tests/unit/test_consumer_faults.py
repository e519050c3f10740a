"""Which consumers can be used, and what the faults of the bus say."""

from __future__ import annotations

import pytest

from agent.bus.connection.faults import permission_violation
from agent.bus.connection.jetstream import ConsumerConfig, ConsumerInfo, parse_consumer_info
from agent.bus.consumer import faults
from agent.report.status_messages import documents_missing, objects_unexplained

GOOD = {"filter_subject": "droplet.v1.h1.config.>"}


def reasons(**config: object) -> tuple[str, ...]:
    return faults.unusable_settings(ConsumerInfo(config=ConsumerConfig(**{**GOOD, **config})), "h1")  # type: ignore[arg-type]


def test_the_consumer_that_the_controller_makes_can_be_used() -> None:
    assert reasons() == ()
    assert reasons(filter_subject="", filter_subjects=("droplet.v1.h1.config.>",)) == ()


@pytest.mark.parametrize(
    "config",
    [
        {"deliver_policy": "new"},
        {"deliver_policy": "by_start_sequence"},
        {"filter_subject": ""},
        {"filter_subject": "droplet.v1.h2.config.>"},
        {"filter_subjects": ("droplet.v1.h1.config.>", "droplet.v1.h2.config.>")},
        {"headers_only": True},
        {"deliver_subject": "elsewhere"},
        {"replay_policy": "original"},
    ],
)
def test_any_other_one_is_refused_for_one_reason(config: dict[str, object]) -> None:
    (reason,) = reasons(**config)
    assert next(iter(config)).removesuffix("s").removesuffix("_subject") in reason


def test_every_reason_is_named() -> None:
    found = faults.consumer_unusable("h1", reasons(deliver_policy="new", headers_only=True))
    assert found.subject == "DROPLET_CONFIG/h1"
    assert "deliver_policy" in found.detail
    assert "headers_only" in found.detail


def test_a_servers_reply_is_read_with_its_configuration_and_pause() -> None:
    body = (
        b'{"created":"c","config":{"deliver_policy":"all","filter_subject":"f","pause_until":"2099","metadata":{}},'
        b'"delivered":{"consumer_seq":3,"stream_seq":9,"last_active":"x"},"num_pending":6,"paused":true}'
    )
    info = parse_consumer_info(body)
    assert (info.paused, info.config.pause_until, info.num_pending, info.delivered.consumer_seq) == (True, "2099", 6, 3)


@pytest.mark.parametrize(
    ("error", "subject", "act"),
    [
        (
            'nats: permissions violation for publish to "$js.api.consumer.reset.droplet_config.h1"',
            "$JS.API.CONSUMER.RESET.DROPLET_CONFIG.h1",
            "publish",
        ),
        ('nats: permissions violation for publish to "droplet.v1.h1.ack.a.b"', "droplet.v1.h1.ack.a.b", "publish"),
        (
            'nats: Permissions Violation for Subscription to "droplet.v1.h1.status" using queue "x"',
            "droplet.v1.h1.status",
            "subscribe",
        ),
    ],
)
def test_a_permission_violation_names_the_subject_as_the_server_knows_it(error: str, subject: str, act: str) -> None:
    found = permission_violation("h1", error)
    assert found is not None
    assert (found.subject, f"{act} to {subject}" in found.detail) == (subject, True)


def test_another_error_is_no_permission_violation() -> None:
    assert permission_violation("h1", "nats: maximum payload exceeded") is None


def test_many_refused_subjects_are_few_faults() -> None:
    found = faults.refused_subjects(f"droplet.v1.h1.config.UPPER{number:02}" for number in range(25))
    assert len(found) == faults.MOST_SUBJECTS + 1
    assert found[-1].subject == "15 more"


def test_missing_documents_are_counted_and_the_first_ones_named() -> None:
    (few,) = documents_missing("h1", {"b", "a"})
    assert few.detail.endswith("they stay in force: a, b")
    (one,) = documents_missing("h1", {"a"})
    assert one.detail.startswith("1 document of this host is not in the stream, and nothing removed it; it stays")
    (many,) = documents_missing("h1", {f"d{number:02}" for number in range(12)})
    assert many.detail.startswith("12 documents")
    assert many.detail.endswith("d09 and 2 more")
    assert documents_missing("h1", ()) == objects_unexplained("h1", 0) == []
