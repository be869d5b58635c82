"""One session with a TigerBeetle cluster: the client package's bindings, its thread, and the packets lent to it.

What lives here: memory that C reads, the callback that C calls, and the way from there into trio. What never does:
waiting, deadlines, retries. A packet and its buffer stay in :attr:`Session.packets` from the moment they are handed to
C until C has completed them, whoever has stopped waiting.

The callback runs in the client's own thread. It copies the reply, which is only valid there, and wakes trio once for
all that has completed until trio runs.
"""

import contextlib
import ctypes
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio
from tigerbeetle import ClientStatus, InitStatus, Operation, bindings, configure_logging
from tigerbeetle.lib import c_uint128

from transfer_engine.engine.ledger.protocol import LedgerUnavailable

_log: Final = structlog.stdlib.get_logger("transfer_engine.ledger")

# By default the client calls into Python for seven debug lines a request, to have them dropped there. Before any client
# is made, for that is when it may be changed; `configure_logging(debug=True)` brings them back.
configure_logging(debug=False)

CREATE_ACCOUNTS: Final = int(Operation.CREATE_ACCOUNTS)
CREATE_TRANSFERS: Final = int(Operation.CREATE_TRANSFERS)
_CREATING: Final = (CREATE_ACCOUNTS, CREATE_TRANSFERS)

ORDERED_PACKETS_MAX: Final = 2
"""Packets of one creating operation within the client, unless they are small.

The client joins a packet to the *first* waiting request that has room for it, so a small third one could overtake a
large second one. With two there is nothing to overtake: one is on its way while the next one waits.
"""

MERGED_EVENTS_MAX: Final = 240
"""So many events of one creating operation surely fit a single request, also where a server takes 32 KiB at most;
then all that waits is joined to one request, in order, however many packets it is."""


class Packet:
    """One request: what is asked, who waits for it, and what came back.

    ``status`` is TigerBeetle's packet status, or None until it is answered. ``failure`` says why there is no reply.
    """

    __slots__ = ("body", "events", "failure", "is_sent", "lent", "native", "operation", "reply", "status", "task")

    def __init__(self, operation: int, body: bytearray, events: int) -> None:
        self.operation = operation
        self.body = body
        self.events = events
        self.status: int | None = None
        self.reply = b""
        self.failure = ""
        self.task: trio.lowlevel.Task | None = None
        self.is_sent = False
        self.native: Any = None
        self.lent: Any = None

    def __repr__(self) -> str:
        state = "answered" if self.status is not None else "sent" if self.is_sent else "waiting"
        return f"<Packet {Operation(self.operation).name.lower()} of {self.events} events, {state}>"


class Session:
    """A client of the cluster, with its own thread. Made and used in trio's thread.

    ``addresses`` are numbers, separated by commas. ``on_answered`` is called in trio's thread with each completed
    packet, ``on_drained`` after each batch of them; neither may raise. Making one does not wait for the cluster. Raises
    :class:`LedgerUnavailable` if this machine can't open another one.
    """

    def __init__(
        self,
        cluster_id: int,
        addresses: str,
        *,
        packets_max: int,
        on_answered: Callable[["Session", Packet], None],
        on_drained: Callable[[], None],
    ) -> None:
        self.packets: dict[int, Packet] = {}
        self._packets_max = packets_max
        self._on_answered = on_answered
        self._on_drained = on_drained
        self._creating = {operation: [0, 0] for operation in _CREATING}  # packets and events within the client
        self._completed: deque[tuple[int, bytes]] = deque()
        self._waking = False
        self._token = trio.lowlevel.current_trio_token()
        self._client = bindings.CClient()
        self._key = next(_keys)
        _sessions[self._key] = self
        cluster = c_uint128.from_param(cluster_id)
        encoded = addresses.encode("ascii")
        status = bindings.tb_client_init(
            ctypes.byref(self._client),
            ctypes.cast(ctypes.byref(cluster), ctypes.POINTER(ctypes.c_uint8 * 16)),
            encoded,
            len(encoded),
            self._key,
            _ON_COMPLETION,
        )
        if status != InitStatus.SUCCESS:
            del _sessions[self._key]
            raise LedgerUnavailable(
                f"TigerBeetle's client can't start for cluster {cluster_id} at {addresses}: "
                f"{InitStatus(status).name.lower()}; check this machine's memory, file descriptors and io_uring"
            )

    def __repr__(self) -> str:
        return f"<Session {self._key} with {len(self.packets)} packets>"

    @property
    def is_full(self) -> bool:
        """Whether the client holds as many packets as it may."""
        return len(self.packets) >= self._packets_max

    def keeps_order(self, packet: Packet) -> bool:
        """Tell whether the packet, handed over now, is applied after all of its operation that were before it."""
        if packet.operation not in self._creating:
            return True  # nothing is promised about the order of reads
        packets, events = self._creating[packet.operation]
        return packets < ORDERED_PACKETS_MAX or events + packet.events <= MERGED_EVENTS_MAX

    def submit(self, packet: Packet) -> bool:
        """Hand the packet over to the client; False if it is evicted or closed, and the packet was not taken."""
        native = bindings.CPacket()
        packet.lent = ctypes.c_char.from_buffer(packet.body)  # also keeps the body where it is
        native.data = ctypes.addressof(packet.lent)
        native.data_size = len(packet.body)
        native.operation = packet.operation
        address = ctypes.addressof(native)
        # It is C's from here on, until its completion is drained.
        packet.native = native
        self.packets[address] = packet
        packet.is_sent = True
        if bindings.tb_client_submit(ctypes.byref(self._client), ctypes.byref(native)) != ClientStatus.OK:
            del self.packets[address]
            packet.native = packet.lent = None
            packet.is_sent = False
            return False
        self._count(packet, 1)
        return True

    def close(self) -> None:
        """End the client and wait for its thread; what it still holds is completed as shut down. Any thread may call.

        It may block while the client waits for the network. Only once it has returned is the memory free.
        """
        status = bindings.tb_client_deinit(ctypes.byref(self._client))
        if status == ClientStatus.OK:
            del _sessions[self._key]
        # Otherwise the client was evicted: its thread ends by itself, some time, and touches our struct until then.

    def drain(self) -> None:
        """Take what has completed. In trio's thread; it never raises, for that would end the process."""
        self._waking = False  # first: what completes from now on wakes trio again
        while self._completed:
            try:
                self._take(*self._completed.popleft())
            except Exception:  # noqa: BLE001  # the process must not die of a defect in here
                _log.exception("tigerbeetle_completion_crashed", session=repr(self))
        try:
            self._on_drained()
        except Exception:  # noqa: BLE001  # as above
            _log.exception("tigerbeetle_completion_crashed", session=repr(self))

    def complete(self, packet_address: int, reply: bytes) -> None:
        """Note a completion and wake trio, unless it is being woken. In the client's thread."""
        self._completed.append((packet_address, reply))
        if not self._waking:
            self._waking = True
            with contextlib.suppress(trio.RunFinishedError):  # then nobody is left to be told
                self._token.run_sync_soon(self.drain)

    def _take(self, address: int, reply: bytes) -> None:
        packet = self.packets.pop(address)
        self._count(packet, -1)
        packet.status = packet.native.status
        packet.reply = reply
        packet.native = packet.lent = None
        self._on_answered(self, packet)

    def _count(self, packet: Packet, change: int) -> None:
        held = self._creating.get(packet.operation)
        if held is not None:
            held[0] += change
            held[1] += change * packet.events


_keys: Final = itertools.count(1)  # C hands zero back as None
_sessions: Final[dict[int, Session]] = {}
"""Every session whose client may still call back."""


def _complete(key: int, packet_address: int, _timestamp: int, reply: int | None, reply_bytes: int) -> None:
    _sessions[key].complete(packet_address, ctypes.string_at(reply, reply_bytes) if reply else b"")


# The packet as a number instead of a pointer object: that is all we need of it, and cheaper.
_CALLBACK: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint32
)(_complete)
_ON_COMPLETION: Final = ctypes.cast(_CALLBACK, bindings.OnCompletion)
