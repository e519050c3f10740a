"""What the agent says to a function's process is what the library reads, and the other way round."""

from __future__ import annotations

import pytest

from agent.datapath.processes import messages
from agent.datapath.processes.messages import Offer, OfferedQueue, Ring
from agent.datapath.processes.sockets import FRAME_SIZE
from droplet_functions import handover
from droplet_functions.rings import RingOffsets

RINGS = {name: Ring(2048, (0, 64, 192, 128)) for name in handover.RINGS}


def test_the_library_reads_what_the_agent_hands_over() -> None:
    queues = (OfferedQueue(False, RINGS), OfferedQueue(True, RINGS))
    found = handover.decode(messages.handover(Offer("f", FRAME_SIZE, 2048, 3400, queues)))
    assert isinstance(found, handover.Handover)
    assert (found.function, found.frame_size, found.frame_count, found.longest_packet) == ("f", 4096, 2048, 3400)
    assert [(one.queue, one.zero_copy) for one in found.queues] == [(0, False), (1, True)]
    queue = found.queues[1]
    assert queue.rings[handover.RX] == handover.RingPlace(2048, RingOffsets(0, 64, 192, 128))


def test_the_library_reads_refusals_and_the_end() -> None:
    assert handover.decode(messages.refused("why")) == handover.Refused("why")
    assert handover.decode(messages.stop()) == handover.Stop()


def test_the_agent_reads_what_the_library_says() -> None:
    assert messages.read_hello(handover.hello("f")) == "f"
    assert messages.kind_of(handover.ready()) == "ready"
    assert messages.kind_of(handover.stopping()) == "stopping"


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b"\xff", b'{"type":"hello"}', b'{"type":"hello","versions":[2],"function":"f"}', b"[" * 99],
)
def test_malformed_messages_ask_for_nothing(raw: bytes) -> None:
    assert messages.read_hello(raw) is None
    assert messages.kind_of(raw) in ("", "hello")
