"""Sends one signed message to one endpoint, once, and says what came of it (Standard Webhooks)."""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import httpcore
import msgspec
import trio
from standardwebhooks import Webhook

from transfer_engine.http.webhook_network import GuardedNetwork
from transfer_engine.http.webhook_urls import parse_endpoint_url
from transfer_engine.schema.webhooks import Endpoint

RESPONSE_BYTES_MOST: Final = 8_192
"""Of an answer that are read, to use the connection once more; a longer one is cut off."""

KEEP_ALIVE_S: Final = 30.0
"""How long a connection waits for the next message."""

SIGNERS_MOST: Final = 4_096
"""Secrets that are remembered decoded."""

_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})
"""Answers whose ``Retry-After`` counts."""


class Delivery(msgspec.Struct, frozen=True):
    """What came of one attempt.

    Attributes:
        is_delivered: the endpoint has taken the message.
        is_gone: it wants none any more.
        detail: what it answered, or why it did not: for its user to read.
        status: of its answer, None where there was none.
        retry_after_s: when it wants to be asked again.
    """

    is_delivered: bool
    detail: str
    is_gone: bool = False
    status: int | None = None
    retry_after_s: float | None = None


class WebhookSender:
    """Connections to endpoints; each has a bound on its time as a whole.

    Args:
        network: the way to them.
        timeout_ms: how long one attempt may take, from the look-up of the name to the end of the answer.
        connections_most: at a time.
        allow_private_addresses: as URLs were registered.
        user_agent: who we say we are.
        clock_s: the wall clock (Unix seconds), which messages are stamped by.
        ssl_context: whom to trust; the usual authorities by default.
    """

    def __init__(
        self,
        network: GuardedNetwork,
        *,
        timeout_ms: int,
        connections_most: int,
        allow_private_addresses: bool,
        user_agent: str,
        clock_s: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._allow_private_addresses = allow_private_addresses
        self._user_agent = user_agent.encode()
        self._clock_s = clock_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=connections_most,
            max_keepalive_connections=connections_most,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=network,
        )

    async def send(self, endpoint: Endpoint, message_id: str, body: bytes) -> Delivery:
        """Send a message once. Cancellation leaves it unknown whether it arrived."""
        try:
            url = parse_endpoint_url(endpoint.url, allow_private_addresses=self._allow_private_addresses)
        except Exception as error:  # noqa: BLE001  registered while other settings held
            return Delivery(False, f"it is not allowed any more: {error}")
        headers = [
            (b"host", url.authority.encode()),
            (b"content-type", b"application/json"),
            (b"user-agent", self._user_agent),
            *signed_headers(endpoint, message_id, body, int(self._clock_s())),
        ]
        target = httpcore.URL(
            scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.target.encode()
        )
        answers: list[Delivery] = []
        with trio.move_on_after(self._timeout_s):
            try:
                await self._post(target, headers, body, answers)
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                if not answers:
                    return Delivery(False, _reason(error))
            except OSError as error:
                if not answers:
                    return Delivery(False, _reason(error))
        return answers[0] if answers else Delivery(False, f"no answer within {self._timeout_s:g} s")

    async def _post(
        self, url: httpcore.URL, headers: list[tuple[bytes, bytes]], body: bytes, answers: list[Delivery]
    ) -> None:
        """Put the answer into ``answers`` as soon as its head is there: the rest of it says nothing."""
        async with self._pool.stream("POST", url, headers=headers, content=body) as response:
            status = response.status
            answers.append(
                Delivery(
                    is_delivered=200 <= status < 300,
                    detail=f"it answered {status}"
                    + (", and redirects are not followed" if 300 <= status < 400 else ""),
                    is_gone=status == _GONE,
                    status=status,
                    retry_after_s=_retry_after_s(response.headers) if status in _BUSY else None,
                )
            )
            read = 0
            with trio.CancelScope() as reading:
                async for chunk in response.aiter_stream():
                    read += len(chunk)
                    if read > RESPONSE_BYTES_MOST:
                        reading.cancel()  # closes the connection with the rest unread, and every generator on the way

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def signed_headers(endpoint: Endpoint, message_id: str, body: bytes, now_s: int) -> list[tuple[bytes, bytes]]:
    """Return the headers that prove a message ours, as Standard Webhooks define them.

    While a secret is being changed over, there is a signature by each of the two.
    """
    stamp = datetime.fromtimestamp(now_s, UTC)
    secrets = [endpoint.secret]
    if endpoint.former_secret and now_s * 1000 < endpoint.former_until:
        secrets.append(endpoint.former_secret)
    text = body.decode()
    signatures = " ".join(_signer(secret).sign(message_id, stamp, text) for secret in secrets)
    return [
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % now_s),
        (b"webhook-signature", signatures.encode()),
    ]


@lru_cache(SIGNERS_MOST)
def _signer(secret: str) -> Webhook:
    return Webhook(secret)


def _reason(error: BaseException) -> str:
    """Return what went wrong, in the words of whichever layer has any."""
    name, told = type(error).__name__, error
    while not str(told) and (told.__cause__ or told.__context__):
        told = told.__cause__ or told.__context__ or told
    return f"{name}: {told}"[:200] if str(told) else name


def _retry_after_s(headers: list[tuple[bytes, bytes]]) -> float | None:
    """Return how long an endpoint wants to be left alone, or None where it says nothing that can be understood."""
    for name, value in headers:
        if name.lower() != b"retry-after":
            continue
        text = value.decode("latin-1").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - time.time())
    return None
