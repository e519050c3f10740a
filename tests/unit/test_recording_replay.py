"""What a recording leaves in force, and what is published of it to a lab."""

from __future__ import annotations

from test_desired_state import REST, UNDERLAY
from test_render import DOCUMENT, HERE

from agent.bus.consumer.admission import Admission
from agent.core.config.desired_state import Desired
from agent.recording.replay import Unrealized, replay
from controller_sim.cli.replay import changes_of, in_steps
from controller_sim.control.publisher import Change
from protocol import codec, streams, subjects
from protocol.binding import SUBJECT
from protocol.recording import Header, Message, Recording

HOST = HERE.host
REMOVAL = {"KV-Operation": "PURGE"}
ALL = codec.encode(DOCUMENT)


def sent(document: str, sequence: int, body: bytes | None, **headers: str) -> Message:
    subject = subjects.config(HOST, document)
    marks = streams.DELETE_HEADERS if body is None else {}
    return Message(subject, sequence, 1.0, {SUBJECT: subject, **marks, **headers}, body or b"")


def recorded(*messages: Message) -> Recording:
    return Recording(Header(HOST, "0.1.0", 1.0), messages)


def in_force(recording: Recording) -> tuple[dict[str, int], list[Unrealized]]:
    desired = Desired(HERE)
    unrealized = replay(recording, desired, Admission())
    return {name: held.revision for name, held in desired.in_force()}, unrealized


def test_the_newest_revision_of_each_document_is_in_force_and_what_was_removed_is_not() -> None:
    found = in_force(
        recorded(
            sent("rest", 1, codec.encode(REST)),
            sent("gone", 2, codec.encode(UNDERLAY)),
            sent("gone", 3, None),
            sent("base", 4, codec.encode(UNDERLAY)),
            sent("rest", 5, codec.encode(REST)),
        )
    )
    assert found == ({"rest": 5, "base": 4}, [])


def test_pending_and_rejected_documents_have_reasons_and_keep_their_good_revision() -> None:
    forces, unrealized = in_force(
        recorded(
            sent("waits", 1, codec.encode(REST)),
            sent("all", 2, ALL),
            sent("waits", 3, None),
            sent("all", 4, b"\xc1"),
            sent("other", 5, b"\x80")._replace(headers={}),
            sent("no document", 6, ALL),
        )
    )
    assert forces == {"all": 2}
    found = {one.name: (one.state, " ".join(one.reasons)) for one in unrealized}
    assert found["all"][0] == "rejected"
    assert "revision 2 stays in force" in found["all"][1]
    assert found["other"][0] == "rejected"
    assert SUBJECT in found["other"][1]
    assert found[subjects.config(HOST, "no document")][0] == "refused"
    assert len(found) == 3


def test_a_pending_document_names_missing_references() -> None:
    forces, (waiting,) = in_force(recorded(sent("waits", 1, codec.encode(REST))))
    assert forces == {}
    assert (waiting.name, waiting.state) == ("waits", "pending")
    assert "droplet d1 is missing" in waiting.reasons


def test_a_recreated_stream_that_counts_from_one_replaces_earlier_documents() -> None:
    found = in_force(recorded(sent("all", 9, codec.encode(UNDERLAY)), sent("all", 1, ALL)))
    assert found == ({"all": 1}, [])


def test_redelivered_messages_are_published_once_and_refused_ones_not_at_all() -> None:
    first, again = sent("all", 1, ALL), sent("all", 1, ALL)._replace(at=5.0)
    copied = sent("copied", 2, ALL, **{SUBJECT: first.subject})
    changes, left_out = changes_of(recorded(first, again, copied, sent("all", 3, None), sent("a b", 4, ALL)), "lab-2")
    assert changes == [Change("lab-2", "all", ALL), Change("lab-2", "all", None)]
    assert [line.partition(": ")[2].partition(",")[0] for line in left_out] == [
        subjects.config(HOST, "copied"),
        subjects.config(HOST, "a b"),
    ]


def test_a_newer_revision_of_a_document_is_a_step_of_its_own() -> None:
    one, two, newer = Change("h1", "a", b"1"), Change("h1", "b", b"1"), Change("h1", "a", b"2")
    assert list(in_steps([one, two, newer])) == [[one, two], [newer]]
    assert list(in_steps([])) == []


def test_a_pending_revision_leaves_the_previous_one_in_force() -> None:
    forces, (waiting,) = in_force(recorded(sent("all", 1, ALL), sent("all", 2, codec.encode(REST))))
    assert forces == {"all": 1}
    assert (waiting.name, waiting.state, waiting.reasons[-1]) == ("all", "pending", "revision 1 stays in force")
