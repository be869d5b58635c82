"""Lines: who can't be admitted at once waits in his user's line, and everybody of that user who comes later behind him.

Something must be asked first: what the user has moved today, or whether a request that a limit refuses was answered
before. Users' transfers are accepted in the order in which they came (I6), so the place is taken at once and
synchronously, and one task a line admits from its head, as many as it can without waiting. Lines are short and rare:
there is none for a user of whom nothing has to be asked.

A request that a limit refuses and that has a key is looked up first: the key's first answer is given again, whatever
the limits are by now. Where the record store does not answer, nobody knows whether there is one: that is a fault
(RecordsUnavailable), and no refusal. A row of another body is a ``key_reused``.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final, cast

import msgspec
import trio

from transfer_engine.engine.contests import KeyContested, Undecided
from transfer_engine.engine.daily_sums import DailySums
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Refused
from transfer_engine.engine.records.protocol import RecordsDamaged, RecordStore, RecordsUnavailable
from transfer_engine.engine.services.registry import Service
from transfer_engine.schema.transfers import Intent, TransferRecord

LOOK_UPS_AT_ONCE: Final = 100
"""Rows that are asked for together, for those that stand behind the one that needs his."""

_LOOK_AGAIN_S: Final = 0.02
"""How often a line looks whether a transfer that it waits for is decided."""

_NOT_KNOWN: Final = "the record store does not say in time what the user has moved today: try again in a moment"


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A transfer that was checked, and is to be admitted."""

    req_id: int
    intent: Intent
    source: Service
    target: Service
    is_keyed: bool


class SumUnknown(Exception):
    """The user's sum of today has to be loaded first."""


class PerhapsAnswered(Exception):
    """A limit refuses it, and it may have been answered before: its row has to be read first."""


class PerhapsRepeated(Exception):
    """It does not fit beside what is under way, of which ``other`` may turn out to be a repetition and move nothing."""

    def __init__(self, other: OpenTransfer) -> None:
        super().__init__(f"{other!r} may have been answered before")
        self.other = other


class Place:
    """One request's place in its user's line, and what became of it there."""

    __slots__ = ("_answer", "_on_decided", "is_given_up", "is_looked_up", "record", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.record: TransferRecord | None = None
        self.is_looked_up = False
        self.is_given_up = False
        self._answer: tuple[OpenTransfer, bool] | Exception | None = None
        self._on_decided: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.is_given_up or self._answer is not None

    def decide(self, answer: tuple[OpenTransfer, bool] | Exception) -> None:
        """Say what became of it; the first answer stands. Who listens is called."""
        if self._answer is None:
            self._answer = answer
            if self._on_decided is not None:
                self._on_decided()

    @property
    def is_waiting(self) -> bool:
        """Whether it is not decided yet."""
        return self._answer is None

    def wake(self) -> None:
        """Give it up, if it is not decided by now: it was not its turn by the deadline, and nothing was taken."""
        if self._answer is None:
            self.is_given_up = True
            if self.wanted.is_keyed:
                self.decide(RecordsUnavailable("what the limits need to know was not there in time"))
            else:
                self.decide(Overloaded(RefusalCode.UNAVAILABLE, _NOT_KNOWN))

    def listen(self, on_decided: "Callable[[tuple[OpenTransfer, bool] | Exception], None]") -> None:
        """Have somebody told once what became of it; it may neither raise nor take long."""
        if self._answer is not None:
            on_decided(self._answer)
        else:
            self._on_decided = lambda: on_decided(cast("tuple[OpenTransfer, bool] | Exception", self._answer))

    async def taken(self, deadline_ms: int) -> tuple[OpenTransfer, bool]:
        """Return the transfer, and whether it was under way or answered before, once it is its turn.

        Cancellation gives the place up: nothing is taken. What was taken is always returned.

        Raises:
            Refused, or a fault: see :meth:`transfer_engine.engine.Engine.transfer`.
            Overloaded, or, with a key, RecordsUnavailable: it was not its turn by the deadline; nothing was taken.
        """
        if self._answer is None:
            is_decided = trio.Event()
            self._on_decided = is_decided.set
            try:
                with trio.move_on_after(deadline_ms / 1000):
                    await is_decided.wait()
                self.wake()
            finally:
                if self.is_waiting:
                    self.is_given_up = True
        if isinstance(self._answer, Exception):
            raise self._answer
        return cast("tuple[OpenTransfer, bool]", self._answer)


class InLine(Undecided):
    """It has a place in its user's line."""

    def __init__(self, place: Place) -> None:
        super().__init__("it has a place in its user's line")
        self.place = place

    async def taken(self, deadline_ms: int) -> tuple[OpenTransfer, bool]:
        """See :meth:`Place.taken`."""
        return await self.place.taken(deadline_ms)


class Lines:
    """The lines of all users that have one.

    Args:
        sums: what users have moved.
        records: where first answers are.
        waiting_most: places in all lines; in one line, ``line_most``.
        host: runs work in a task of its own, or says that it can't.
    """

    def __init__(
        self,
        *,
        sums: DailySums,
        records: RecordStore,
        line_most: int,
        waiting_most: int,
        host: Callable[[Callable[[], Awaitable[None]]], bool],
    ) -> None:
        self._sums = sums
        self._records = records
        self._line_most = line_most
        self._waiting_most = waiting_most
        self._host = host
        self._waiting = 0
        self.of_user: Final[dict[int, deque[Place]]] = {}
        """Lines, by user; there is none that is empty."""

    def __repr__(self) -> str:
        return f"<Lines of {len(self.of_user)} users, {self._waiting} places>"

    def join(self, wanted: Wanted, admit: Callable[[Place], tuple[OpenTransfer, bool]]) -> InLine:
        """Give a request the last place in its user's line; return what to raise for it.

        ``admit`` is called when it stands at the head; it may raise SumUnknown, PerhapsAnswered, PerhapsRepeated and
        KeyContested, and is then called again.

        Raises:
            Overloaded: the line is too long, or the engine is shutting down.
        """
        user_id = wanted.intent.user_id
        line = self.of_user.get(user_id)
        if self._waiting >= self._waiting_most or (line is not None and len(line) >= self._line_most):
            raise Overloaded(RefusalCode.OVERLOADED, f"too many transfers of user {user_id} wait: try again later")
        place = Place(wanted)
        if line is None:
            line = deque([place])
            if not self._host(lambda: self._serve(user_id, line, admit)):
                raise Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down: try again elsewhere")
            self.of_user[user_id] = line
        else:
            line.append(place)
        self._waiting += 1
        return InLine(place)

    async def _serve(
        self, user_id: int, line: deque[Place], admit: Callable[[Place], tuple[OpenTransfer, bool]]
    ) -> None:
        """Admit from the head of a line until it is empty, without a pause wherever nothing has to be asked."""
        try:
            while line:
                place = line[0]
                if not place.is_over:
                    try:
                        place.decide(admit(place))
                    except Refused as refused:
                        place.decide(refused)
                    except (SumUnknown, PerhapsAnswered, PerhapsRepeated, KeyContested) as question:
                        await self._ask(question, place, line)
                        continue
                    except Exception as fault:  # noqa: BLE001  whatever it is, the others' places are in order
                        place.decide(fault)
                line.popleft()
                self._waiting -= 1
        finally:
            # The point of no return for the line: who comes now is admitted at once, or begins another one.
            del self.of_user[user_id]
            self._waiting -= len(line)
            for left in line:
                left.decide(Overloaded(RefusalCode.SHUTTING_DOWN, "the engine is shutting down: try again elsewhere"))

    async def _ask(self, question: Exception, place: Place, line: deque[Place]) -> None:
        """Get to know what the head of the line needs; what can't be known is his answer."""
        try:
            if isinstance(question, SumUnknown):
                await self._sums.load_here(place.wanted.intent.user_id)
            elif isinstance(question, PerhapsAnswered):
                await self._look_up(line)
            elif isinstance(question, PerhapsRepeated | KeyContested):
                await _until_decided(question.other)
        except RecordsUnavailable as fault:
            # With a key it may have been answered before: a fault. Without one it is certain that nothing was taken.
            place.decide(fault if place.wanted.is_keyed else Overloaded(RefusalCode.UNAVAILABLE, _NOT_KNOWN))
        except Exception as fault:  # noqa: BLE001  whatever it is, it is his who asked
            place.decide(fault)

    async def _look_up(self, line: deque[Place]) -> None:
        """Read the row of the head, and of those behind him that may need theirs.

        Only the first one of a name: what he does is seen by the second one, who has to look for himself.
        """
        places: dict[int, Place] = {}
        for place in islice(line, LOOK_UPS_AT_ONCE):
            if place.wanted.is_keyed and not place.is_looked_up:
                places.setdefault(place.wanted.req_id, place)
        try:
            rows = await self._records.get_many(list(places))
        except RecordsDamaged:
            head = line[0]
            places = {head.wanted.req_id: head}
            rows = await self._records.get_many(list(places))
        for req_id, place in places.items():
            place.record = rows.get(req_id)
            place.is_looked_up = True


async def _until_decided(other: OpenTransfer) -> None:
    """Wait for another transfer's answer, or for a moment: it may also be decided without one."""
    if other.answer is not None:
        await trio.lowlevel.checkpoint()
        return
    with trio.move_on_after(_LOOK_AGAIN_S):
        await other.new_waiter().wait()
