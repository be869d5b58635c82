"""Where the handlers find the engine: doors open before it has."""

from typing import TYPE_CHECKING

from transfer_engine.engine.backends import Opening
from transfer_engine.engine.outcomes import Overloaded, RefusalCode

if TYPE_CHECKING:
    from transfer_engine.engine import Engine


class EngineSlot:
    """Empty until the engine has opened."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self.running: Engine | None = None

    @property
    def engine(self) -> "Engine":
        """The engine.

        Raises:
            Overloaded: it is not open yet; the message says what is waited for.
        """
        if self.running is None:
            raise Overloaded(RefusalCode.UNAVAILABLE, self.starting)
        return self.running

    @property
    def starting(self) -> str:
        """What to tell while there is no engine."""
        waits_for = self._opening.waits_for
        return f"the engine is starting: it waits for {waits_for}" if waits_for else "the engine is starting"
