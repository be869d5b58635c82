"""What a person must know: counted by name, and logged with all that helps to find the transfer."""

from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from transfer_engine.engine.open_transfers import OpenTransfer

_log: Final = structlog.stdlib.get_logger("transfer_engine.alerts")


class Alerts:
    """Counts alerts by name; the log has each one with its fields."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def warn(self, name: str, *, transfer: "OpenTransfer | None" = None, **fields: object) -> None:
        """Something needs a look soon; nothing is wrong with the money."""
        self._counts[name] += 1
        _log.warning(name, **_named(transfer), **fields)

    def critical(self, name: str, *, transfer: "OpenTransfer | None" = None, **fields: object) -> None:
        """Something needs a person now: a transfer can't end by itself, or an invariant is in doubt."""
        self._counts[name] += 1
        _log.critical(name, **_named(transfer), **fields)

    def counts(self) -> dict[str, int]:
        """Return how often each alert was raised in this run."""
        return dict(self._counts)


def _named(transfer: "OpenTransfer | None") -> dict[str, object]:
    """Return what finds a transfer's other lines: the doors' name it by the same fields."""
    if transfer is None:
        return {}
    return {"req_id": str(transfer.uuid), "user": transfer.intent.user_id, "transfer": repr(transfer)}
