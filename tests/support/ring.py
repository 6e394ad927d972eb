"""A guest's hands on its XenStore page, played from Python: the third peer with the face of tests.support.wire.

Owns the page's offsets, the guest's side of the indices, and the order in which bytes and indices become visible.
Refuses to know what is said, and how the daemon gets its turn unless it is a process of its own.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Final

from fastxs.hypervisor.simxen.guests import Guests
from tests.support.wire import Face

RING: Final = 1024
WRAP: Final = 1 << 32

# Words of the page, by their place in it (SPEC 2.1).
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR, PORT = range(512, 520)

COMM, INDEX, PROTO = 1, 2, 3
"""What ERROR says; 0: nothing."""

_lock: Final = threading.Lock()


def fence() -> None:
    """What was written before is seen before what comes after: Python's one way to say so is a lock."""
    with _lock:
        pass


class RingPeer(Face):
    """One domain's end of its ring.

    `wait(timeout_s)` returns when the daemon may have done something; the default sleeps until it notifies one of
    `guests`, whoever that is.

    `words` is the page as 1024 words of 4 bytes, since an index must be read and written as a whole; after the
    domain's page was made anew (`Guests.create`) a new RingPeer is needed.
    """

    def __init__(self, guests: Guests, domid: int, wait: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.guests: Final = guests
        self.domid: Final = domid
        self.page: Final = guests.ring(domid)
        self.words: Final = self.page.cast("I")
        self._wait: Final = wait or self._sleep

    def _sleep(self, timeout_s: float) -> None:
        if select.select([self.guests], [], [], timeout_s)[0]:
            self.guests.events()

    def notify(self) -> None:
        """The guest's event channel."""
        self.guests.notify(self.domid)

    def put(self, data: bytes) -> int:
        """As many of these bytes as the ring has room for, without a notification; how many."""
        prod = self.words[REQ_PROD]
        n = min(len(data), RING - (prod - self.words[REQ_CONS]) % WRAP)
        at = prod % RING
        first = min(n, RING - at)
        self.page[at : at + first] = data[:first]
        self.page[0 : n - first] = data[first:n]
        fence()
        self.words[REQ_PROD] = (prod + n) % WRAP
        return n

    def waiting(self) -> int:
        """Bytes of replies and events that lie in the ring."""
        return (self.words[RSP_PROD] - self.words[RSP_CONS]) % WRAP

    def get(self, most: int = RING) -> bytes:
        """Up to `most` of them, without a notification."""
        cons = self.words[RSP_CONS]
        n = min(most, self.waiting())
        fence()
        at = RING + cons % RING
        first = min(n, 2 * RING - at)
        data = bytes(self.page[at : at + first]) + bytes(self.page[RING : RING + n - first])
        fence()
        self.words[RSP_CONS] = (cons + n) % WRAP
        return data

    def _write(self, data: bytes) -> None:
        deadline = time.monotonic() + 10
        while data:
            sent = self.put(data)
            data = data[sent:]
            if sent:
                self.notify()
            if data:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"domain {self.domid}: no room in its ring")
                self._wait(1)

    def _read(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while not self.waiting():
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            self._wait(left)
        data = self.get()
        self.notify()  # it may have waited for room
        return data
