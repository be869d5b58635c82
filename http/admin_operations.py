"""The operators' endpoints, as their readers need them."""

from typing import Final

from transfer_engine.engine.outcomes import RefusalCode
from transfer_engine.engine.parts import EngineStatistics
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.http.first_operations import REQ_ID
from transfer_engine.http.operations import (
    KEY,
    MONEY_PROBLEMS,
    OPERATORS,
    TAKING_PROBLEMS,
    Answer,
    Operation,
    Parameter,
)
from transfer_engine.http.problems import ProblemCode
from transfer_engine.schema.wire import CreditRequest, ResolveRequest, ResolveResponse, TransferResponse

CREDIT: Final = Operation(
    name="credit",
    group=OPERATORS,
    description="Keyed like a transfer; keys of credits and of transfers never meet.",
    request=CreditRequest,
    example={"user_id": 4001, "account": "funding", "asset_id": 1, "amount": 500000000},
    answers=(
        Answer(
            status=201,
            description="It is there.",
            body=TransferResponse,
            example={"req_id": "06f017af-4a80-8000-8000-000000000000", "status": "committed", "message": None},
        ),
        Answer(status=200, description="It was refused, for good: `message` says why.", body=TransferResponse),
        Answer(status=202, description="It is under way: send the same again.", body=TransferResponse),
    ),
    parameters=(KEY,),
    problems=(*MONEY_PROBLEMS, *TAKING_PROBLEMS),
)

RESOLVE: Final = Operation(
    name="resolveTransfer",
    group=OPERATORS,
    description="For one that does not end by itself. `void` fences the target first, so that a late answer of it "
    "moves nothing; `post` asks everybody again, and posts only if all agree.",
    request=ResolveRequest,
    example={"action": "void"},
    answers=(
        Answer(
            status=200,
            description="What was done, step by step, and the state after it.",
            body=ResolveResponse,
            example={"req_id": REQ_ID.example, "state": "committed", "steps": ["it had ended before: committed"]},
        ),
    ),
    parameters=(REQ_ID,),
    problems=(ProblemCode.INVALID_REQ_ID, RefusalCode.NOT_FOUND, *TAKING_PROBLEMS),
)

BEHAVE: Final = Operation(
    name="setCoreBehaviour",
    group=OPERATORS,
    description="For demonstrations and tests; the empty object makes it behave well again.",
    request=Behaviour,
    example={"latency_ms": 3000, "ops": ["deposit"]},
    answers=(Answer(status=200, description="How it behaves from now on.", body=Behaviour),),
    parameters=(
        Parameter(
            name="name",
            place="path",
            description="The core's name, among the services of kind `simulated_core`.",
            schema={"type": "string", "minLength": 1},
            is_required=True,
            example="core",
        ),
    ),
    problems=(ProblemCode.NO_SUCH_CORE,),
)

STATISTICS: Final = Operation(
    name="getStatistics",
    group=OPERATORS,
    answers=(Answer(status=200, description="Figures since this start.", body=EngineStatistics),),
)
