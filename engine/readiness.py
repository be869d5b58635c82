"""Readiness: whether each part of an engine can work now."""

from typing import Final

import trio

from transfer_engine.engine.outcomes import PartReadiness, Readiness
from transfer_engine.engine.parts import Parts

_PATIENCE_S: Final = 1
"""How long a backend has to answer."""


async def readiness_of(parts: Parts) -> Readiness:
    """Tell whether each part can work now; asks the ledger and the records. Cancellation leaves nothing behind."""
    asked = {"ledger": "did not answer", "records": "did not answer"}
    for name, health in (("ledger", parts.submitter.health), ("records", parts.recorder.health)):
        with trio.move_on_after(_PATIENCE_S):
            try:
                if name == "ledger":
                    await parts.ledger.lookup_accounts([1])
                else:
                    await parts.records.get(1)
            except Exception as error:  # noqa: BLE001  whatever it is, the part is not ready
                asked[name] = str(error)
            else:
                asked[name] = health.fault
    statistics = parts.scanner.statistics()
    not_admitting = parts.admission.closed_because
    return Readiness(
        ledger=PartReadiness(ready=not asked["ledger"], detail=asked["ledger"]),
        records=PartReadiness(ready=not asked["records"], detail=asked["records"]),
        scanner=PartReadiness(
            ready=statistics.running and not not_admitting,
            detail=not_admitting or ("" if statistics.running else "not running"),
        ),
    )
