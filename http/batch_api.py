"""Batches: many transfers in one request, in one trip, each with its own key and its own outcome."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from transfer_engine.engine import Engine
from transfer_engine.engine.callers import Answer, OnAnswer, gather_answers
from transfer_engine.engine.outcomes import RefusalCode, TransferOutcome
from transfer_engine.http import batch_operations as operations
from transfer_engine.http.batch_bodies import Item, decode_batch, decode_lines
from transfer_engine.http.engine_slot import EngineSlot
from transfer_engine.http.gate import Gate
from transfer_engine.http.identity import Caller, Scope
from transfer_engine.http.messages import JSON, NDJSON, About, Request, Response
from transfer_engine.http.problems import Flavour, ProblemCode, Rejected
from transfer_engine.http.routes import Route
from transfer_engine.http.transfer_items import order_of, problem_of
from transfer_engine.schema.batch_wire import BatchOutcome, BatchProblem, BatchResponse

BODY_BYTES_MOST: Final = 512 << 10
"""The largest body: 1,000 transfers with long keys."""

_ENCODER: Final = msgspec.json.Encoder()


class BatchApi:
    """Its endpoint.

    Args:
        slot: where the engine is.
        gate: counts each transfer of a batch like a request of its own.
    """

    def __init__(self, slot: EngineSlot, gate: Gate) -> None:
        self._slot = slot
        self._gate = gate

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [
            Route(
                "POST",
                "/api/v1/transfers/batch",
                self.batch,
                Scope.WRITE,
                body_types=(JSON, NDJSON),
                body_bytes_most=BODY_BYTES_MOST,
                operation=operations.BATCH,
            )
        ]

    async def batch(self, request: Request, caller: Caller, _parameters: Sequence[str]) -> Response:
        """Move many amounts: 200 with what became of each, in their order; one that is wrong spoils no other."""
        if request.idempotency_keys:
            raise Rejected(
                ProblemCode.INVALID_IDEMPOTENCY_KEY,
                "Idempotency-Key names one transfer: give each of a batch an idempotency_key of its own",
                field="Idempotency-Key",
            )
        is_lines = request.content_type.partition(b";")[0].strip().lower() == NDJSON
        items = decode_lines(request.body) if is_lines else decode_batch(request.body)
        self._gate.charge(request, caller, len(items) - 1, of=len(items))
        answers = await transfer_items(self._slot.engine, items, caller)
        results = [_result(index, *answer) for index, answer in enumerate(zip(items, answers, strict=True))]
        problems = [result for result in results if isinstance(result, BatchProblem)]
        about = About(count=len(items), refused=len(problems))
        overloaded = sum(problem.code == RefusalCode.OVERLOADED for problem in problems)
        if is_lines:
            return Response(200, _ENCODER.encode_lines(results), NDJSON, (), about, overloaded)
        return Response(200, _ENCODER.encode(BatchResponse(results=results)), JSON, (), about, overloaded)


async def transfer_items(engine: Engine, items: Sequence[Item], caller: Caller) -> Sequence[Answer | Exception]:
    """Move what items ask for in one trip; return what became of each, in their order, faults included.

    Cancellation gives up waiting, and stops none of them.
    """
    begin: list[Callable[[OnAnswer], None]] = []
    for item in items:
        try:
            if isinstance(item, Rejected):
                raise item
            begin.append(partial(engine.submit, order_of(item, caller)))
        except Rejected as rejected:
            begin.append(partial(_reject, rejected))
    return await gather_answers(begin)


def _reject(rejected: Rejected, on_answer: OnAnswer) -> None:
    on_answer(rejected)


def _result(index: int, item: Item, answer: Answer | Exception) -> BatchOutcome | BatchProblem:
    if isinstance(answer, TransferOutcome):
        return BatchOutcome(index, answer.status, answer.req_id, answer.message, answer.replayed)
    is_keyed = not isinstance(item, Rejected) and item.idempotency_key is not None
    details = problem_of(answer, is_safe=is_keyed).details(Flavour.TRANSFER)
    return BatchProblem(index=index, **msgspec.structs.asdict(details))
