"""A client's notes: what it asked for, written down before it was sent, and every answer that it was told.

They are the other half of the evidence: the server's books are held against them after every crash.
"""

from collections.abc import Iterator

import msgspec

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.engine.services.registry import EXTERNAL
from transfer_engine.schema.ids import fingerprint, keyed_req_id
from transfer_engine.schema.transfers import TransferStatus

VERDICTS = frozenset({TransferStatus.COMMITTED, TransferStatus.FAILED, TransferStatus.ROLLED_BACK})
"""What a client may be told once and for all."""


class Asked(msgspec.Struct, frozen=True):
    """A transfer or credit (from ``external``) that a client names by its own ``key``; ``amount`` in minor units.

    ``turn`` is its place among its user's transfers where the client sends one only once the former was answered:
    so it is also the order in which the engine accepted them. None where several are under way at a time.
    """

    key: str
    source: str
    target: str
    user_id: int
    asset_id: int
    amount: int
    turn: int | None = None

    @property
    def is_credit(self) -> bool:
        """Whether the money comes from outside."""
        return self.source == EXTERNAL

    @property
    def req_id(self) -> int:
        """The name that every engine derives from the key, of a client without a token."""
        return keyed_req_id("", "credit" if self.is_credit else "transfer", self.key)

    @property
    def fingerprint(self) -> int:
        """What tells two bodies under one key apart."""
        return fingerprint(
            source=self.source,
            target=self.target,
            user_id=self.user_id,
            target_user_id=self.user_id,
            asset_id=self.asset_id,
            amount=self.amount,
        )


class Answer(msgspec.Struct, frozen=True):
    """One answer: what HTTP said of the request, and what the body said of the transfer.

    ``status`` is None where the answer is about the request alone (it was refused, or the server is in trouble);
    then ``code`` is the problem's.
    """

    http_status: int
    status: TransferStatus | None
    code: str
    req_id: str
    message: str | None
    is_replay: bool
    took_ms: float


class Note:
    """One request: how often it was sent, and what came back."""

    __slots__ = ("answers", "asked", "is_abandoned", "sent")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.sent = 0
        self.answers: list[Answer] = []
        self.is_abandoned = False
        """Whether its client never comes back: it may have happened as a whole, or not at all."""

    def __repr__(self) -> str:
        return f"<Note {self.asked} sent {self.sent} times: {self.answers}>"

    @property
    def verdict(self) -> TransferStatus | None:
        """The first final status that was told, or None."""
        return next((answer.status for answer in self.answers if answer.status in VERDICTS), None)

    @property
    def is_foreign(self) -> bool:
        """Whether the client was told that another body owns the key."""
        return any(answer.code == RefusalCode.KEY_REUSED for answer in self.answers)

    @property
    def is_undecided(self) -> bool:
        """Whether it was sent, and its client waits for a final answer."""
        return self.sent > 0 and self.verdict is None and not self.is_foreign and not self.is_abandoned

    @property
    def is_unanswered(self) -> bool:
        """Whether it was sent and never answered."""
        return self.sent > 0 and not self.answers


class Notebook:
    """All notes of all clients, in the order of their first sending."""

    def __init__(self) -> None:
        self._notes: dict[Asked, Note] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())

    def find(self, asked: Asked) -> Note | None:
        """Return the note of a request, if there is one."""
        return self._notes.get(asked)

    def note(self, asked: Asked) -> Note:
        """Return the note of a request, new or not."""
        found = self._notes.get(asked)
        if found is None:
            found = self._notes[asked] = Note(asked)
        return found

    @property
    def answers(self) -> int:
        """How many answers were told, of any kind."""
        return sum(len(note.answers) for note in self)

    @property
    def undecided(self) -> list[Note]:
        """The notes without a final answer, in order: to be sent again, by the same keys."""
        return [note for note in self if note.is_undecided]
