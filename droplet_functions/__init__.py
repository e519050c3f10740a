"""Network functions in processes: packets of the Droplet data plane in Python, by AF_XDP, without privileges.

```python
from droplet_functions import GO_ON, Function, Packet, Verdict, drop

function = Function("no-telnet")


@function.on_packet
def handle(packet: Packet) -> Verdict:
    tcp = packet.layers().tcp
    return drop(23) if tcp and tcp.destination_port == 23 else GO_ON


function.run()
```

docs/functions.md is the guide. `rewrite` changes fields and keeps checksums right.
"""

from droplet_functions import rewrite
from droplet_functions.counters import Counters
from droplet_functions.engine import Batch
from droplet_functions.errors import (
    BarrierError,
    CaptureError,
    FunctionError,
    HandoverError,
    HeaderError,
    NoAgentError,
    NoRoomError,
    PacketGoneError,
    RefusedError,
    RingError,
)
from droplet_functions.function import Function
from droplet_functions.headers import Ip, Layers, Transport, parse
from droplet_functions.meta import Direction, Meta, Point
from droplet_functions.packet import Packet
from droplet_functions.replay import Replayed
from droplet_functions.verdict import GO_ON, KEEP, SEND, SEND_BACK, Verdict, VerdictCode, drop, send_to

__all__ = [
    "GO_ON",
    "KEEP",
    "SEND",
    "SEND_BACK",
    "BarrierError",
    "Batch",
    "CaptureError",
    "Counters",
    "Direction",
    "Function",
    "FunctionError",
    "HandoverError",
    "HeaderError",
    "Ip",
    "Layers",
    "Meta",
    "NoAgentError",
    "NoRoomError",
    "Packet",
    "PacketGoneError",
    "Point",
    "RefusedError",
    "Replayed",
    "RingError",
    "Transport",
    "Verdict",
    "VerdictCode",
    "drop",
    "parse",
    "rewrite",
    "send_to",
]
