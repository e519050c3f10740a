"""Signs what the controller publishes with the nkey that it logs in with (`protocol.binding` says which bytes)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import nkeys

from protocol import binding


class Signer:
    """One publisher. Its versions grow also when the clock goes back or two messages come in one microsecond."""

    def __init__(self, seed: bytes, clock: Callable[[], int] = time.time_ns) -> None:
        """Take the text of an nkey seed; `clock` returns nanoseconds since the epoch."""
        self._pair = nkeys.from_seed(bytearray(seed))
        self._clock = clock
        self._last = 0
        self.publisher: str = self._pair.public_key.decode()

    def headers(self, subject: str, body: bytes, *, removes: bool) -> dict[str, str]:
        """Return the headers that bind a message to its subject and to this publisher."""
        self._last = max(self._last + 1, self._clock() // 1000)
        signature = self._pair.sign(binding.signed_bytes(subject, self._last, body, removes=removes))
        return binding.signed(subject, self._last, self.publisher, signature)


def read_signer(seed: Path) -> Signer:
    """Return the signer of an nkey seed's file."""
    return Signer(seed.read_bytes().strip())
