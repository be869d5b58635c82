"""Transfers that come as items of a batch, or one by one through a websocket: into orders, and their answers back."""

from typing import Final

from transfer_engine.engine.callers import Answer, TransferOrder
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, Refused, TransferOutcome
from transfer_engine.http.identity import Caller
from transfer_engine.http.problems import (
    Problem,
    ProblemCode,
    Rejected,
    problem_of_fault,
    problem_of_refusal,
    problem_of_rejection,
)
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import BatchEntry, ErrorDetails, TransferItem, TransferResult

_RETRY_AFTER: Final = b"retry-after"


def order_of(item: TransferItem, caller: Caller) -> TransferOrder:
    """Return what an item orders, in its caller's name.

    Raises:
        Rejected: no user is named, or one whose money the caller may not move; or the key is none that a header, and so
            a single transfer and a look-up, could name.
    """
    key = item.idempotency_key
    if key and (not key.isascii() or not key.isprintable() or key[0] == " " or key[-1] == " "):
        raise Rejected(
            ProblemCode.INVALID_IDEMPOTENCY_KEY,
            "idempotency_key has characters in it that are not printable ASCII, or a blank at its ends: use letters, "
            "digits and punctuation",
            field="idempotency_key",
        )
    user_id = own_user(item.user_id, caller)
    caller.require_user(user_id, "user_id")
    to_user_id = item.to_user_id
    if to_user_id is not None and to_user_id != user_id:
        caller.require_user(to_user_id, "to_user_id")
    return TransferOrder(
        source=item.source,
        target=item.target,
        user_id=user_id,
        asset_id=item.asset_id,
        amount=item.amount,
        target_user_id=to_user_id,
        idempotency_key=key,
        subject=caller.subject,
    )


def own_user(user_id: int | None, caller: Caller) -> int:
    """Return the user that a request is about: the one that it names, or the token's own.

    Raises:
        Rejected: it names none, and neither does the token.
    """
    if user_id is None:
        user_id = caller.user_id
    if user_id is None:
        raise Rejected(ProblemCode.MISSING_FIELD, "user_id is missing: no token names a user here", field="user_id")
    return user_id


def result_of(outcome: TransferOutcome) -> TransferResult:
    """Return what a client is told of a transfer that was taken."""
    return TransferResult(outcome.req_id, outcome.status, outcome.message, outcome.replayed)


def entry_of(answer: Answer | Exception, *, is_keyed: bool) -> BatchEntry:
    """Return a batch's entry for one transfer: its result, its refusal, or a fault."""
    if isinstance(answer, TransferOutcome):
        return BatchEntry(True, result_of(answer))
    return BatchEntry(False, error=transfer_error(answer, is_keyed=is_keyed))


def transfer_error(fault: Exception, *, is_keyed: bool) -> ErrorDetails:
    """Return what a client is told of a transfer that was refused, or of which nothing is known."""
    problem = problem_of(fault, is_safe=is_keyed)
    status = TransferStatus.FAILED if problem.outcome_is_known else TransferStatus.PENDING
    return error_details(problem, status)


def is_overload(answer: Answer | Exception) -> bool:
    """Whether a transfer was refused because there is no room."""
    return isinstance(answer, Overloaded) and answer.code is RefusalCode.OVERLOADED


def error_details(problem: Problem, status: TransferStatus | None = None) -> ErrorDetails:
    """Return the members of a problem that an answer without HTTP carries; ``status`` is the transfer's, if any."""
    retry_after_s = None
    for name, value in problem.headers:
        if name == _RETRY_AFTER:
            retry_after_s = int(value)
    return ErrorDetails(problem.code, problem.detail, problem.retryable, problem.field, status, retry_after_s)


def problem_of(fault: Exception, *, is_safe: bool) -> Problem:
    """Return the problem of a refusal, a rejection, or of a fault that nobody expected; see ``problem_of_fault``."""
    if isinstance(fault, Refused):
        return problem_of_refusal(fault)
    if isinstance(fault, Rejected):
        return problem_of_rejection(fault)
    return problem_of_fault(fault, is_safe=is_safe)
