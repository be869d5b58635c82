"""From what a door answers to the names of ``sending``: the same for HTTP and websockets, single and in batches.

Unknown is never told as failed (I9): what says that nothing moved, and nothing will by this request, is a failure or a
refusal; every other answer that is no outcome is a fault.
"""

from typing import Final

import msgspec

from transfer_engine.benchmarks.sending import COMMITTED, FAILED, FAULT, PENDING, REFUSED, REPLAYED

CUT: Final = f"{FAULT}cut"
"""The connection ended before the answer was whole."""
TIMED_OUT: Final = f"{FAULT}timeout"
UNREACHABLE: Final = f"{FAULT}unreachable"
"""No connection could be made: nothing was asked."""
UNREADABLE: Final = f"{FAULT}unreadable"
"""The answer is none that this API gives."""

_OF_STATUS: Final = {"committed": COMMITTED, "pending": PENDING, "failed": FAILED, "rolled_back": FAILED}


class Told(msgspec.Struct, frozen=True, gc=False):
    """What an answer says of one transfer: an outcome, or the members of a problem."""

    status: str | int | None = None
    code: str | int | None = None
    replayed: bool = False


def outcome_of(told: Told, *, is_replayed: bool = False) -> str:
    """Return what became of a transfer; ``is_replayed`` where a header says so."""
    if told.code is None:
        if told.status == "committed":
            return REPLAYED if is_replayed or told.replayed else COMMITTED
        return _OF_STATUS.get(told.status, UNREADABLE) if isinstance(told.status, str) else UNREADABLE
    return f"{FAULT}{told.code}" if told.status == "pending" else f"{REFUSED}{told.code}"


def outcome_of_http(status: int, told: Told, *, is_replayed: bool = False) -> str:
    """Return what an answer by HTTP says of the transfer, or the whole batch, that it is about.

    A 5xx is a refusal only where its body says that nothing was taken (``"status": "failed"``, as overload has it).
    """
    if status < 300:
        return outcome_of(told, is_replayed=is_replayed)
    if 400 <= status < 500 and told.code is not None and told.status != "pending":
        return f"{REFUSED}{told.code}"
    if told.code is not None and told.status == "failed":
        return f"{REFUSED}{told.code}"
    return f"{FAULT}HTTP {status}"
