"""Asking the handlers without a door, in somebody's name."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from transfer_engine.engine import Engine
from transfer_engine.http.gate import Gate
from transfer_engine.http.handlers import Api
from transfer_engine.http.identity import Caller, NoTokens, Scope
from transfer_engine.http.messages import JSON, Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.webhook_settings import WebhookSettings

OWN = frozenset({Scope.READ, Scope.WRITE})


def user(number: int, *scopes: Scope) -> Caller:
    """Return a user with a token for himself, and these scopes beside."""
    return Caller(subject=str(number), user_id=number, scopes=OWN | set(scopes))


class KnownCallers:
    """An authenticator that knows callers by their subjects: the token is the subject."""

    def __init__(self, *callers: Caller) -> None:
        self.generation = 0
        self._callers = {caller.subject.encode(): caller for caller in callers}

    def known(self, authorization: Sequence[bytes]) -> Caller | None:
        return self._callers.get(authorization[0]) if authorization else None

    async def authenticate(self, _authorization: Sequence[bytes]) -> Caller:
        raise Rejected(ProblemCode.UNAUTHENTICATED, "who are you?")

    async def run(self) -> None:
        pass


class Answer:
    """What was answered, decoded."""

    def __init__(self, status: int, media_type: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.media_type = media_type
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body!r}>"

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def data(self) -> Any:
        """The second API's data, where it is a success."""
        assert self.status in {200, 202}, self
        assert list(self.json) == ["code", "data"], self
        assert self.json["code"] == 0
        return self.json["data"]

    @property
    def problem(self) -> tuple[int, str, str | None]:
        """The second API's problem: status, name, field."""
        problem = self.json
        assert self.media_type == b"application/problem+json", self
        assert problem["status"] == self.status
        assert isinstance(problem["code"], int)
        assert problem["type"] == f"urn:transfer-engine:problem:{problem['name']}"
        assert isinstance(problem["retryable"], bool)
        assert problem["detail"]
        return self.status, problem["name"], problem.get("field")


class Asker:
    """Asks in a caller's name; without callers there are no tokens."""

    def __init__(self, engine: Engine, *callers: Caller, webhooks: WebhookSettings | None = None) -> None:
        self.engine = engine
        gate = Gate(KnownCallers(*callers) if callers else NoTokens())
        self.api = Api(engine.settings, version="1", gate=gate, webhooks=webhooks)
        self.api.serve(engine)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        caller: Caller | None = None,
        key: str | None = None,
        content_type: bytes = JSON,
        query: bytes | None = None,
        **parameters: Any,
    ) -> Answer:
        """Ask; ``parameters`` go into the query, unless it is given raw."""
        response = await self.api.answer(
            Request(
                method,
                path,
                body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body),
                content_type,
                () if key is None else (key.encode(),),
                urlencode(parameters).encode() if query is None else query,
                authorization=() if caller is None else (caller.subject.encode(),),
                host=b"127.0.0.1",
            )
        )
        return Answer(response.status, response.media_type, dict(response.headers), response.body)

    async def fund(self, *users: int, amount: int = 10**12, asset_id: int = 1) -> None:
        """Give users money in ``funding``."""
        for user_id in users:
            await self.engine.credit(user_id=user_id, account="funding", asset_id=asset_id, amount=amount)
