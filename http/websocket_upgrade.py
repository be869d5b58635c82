"""From an HTTP request that wants to be a websocket to one: the handshake of RFC 6455, on a stream of its own."""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import trio
from wsproto.utilities import generate_accept_token

from transfer_engine.http.express_answers import Answers
from transfer_engine.http.express_requests import Upgrade
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.websocket_sessions import WebSockets
from transfer_engine.http.websocket_stream import StreamConnection

_VERSION: Final = b"13"
_NONCE_BYTES: Final = 16
_ANSWERS: Final = Answers()
_HEAD: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
)


async def serve_websocket(
    websockets: WebSockets, upgrade: Upgrade, stream: trio.abc.Stream, _stopping: trio.Event
) -> None:
    """Answer a request that left HTTP, and serve the websocket to its end, if it is to be one; the caller closes it.

    Cancellation cuts it. That the server stops is told to all websockets at once, by :meth:`WebSockets.stop`.
    """
    try:
        admitted = await websockets.admit(upgrade.request)
        key = require_handshake(upgrade.protocols, upgrade.headers)
    except Rejected as rejected:
        admitted = None
        answer = _ANSWERS.encode(websockets.refusal(upgrade.request, rejected), closes=True)
    else:
        answer = _HEAD + generate_accept_token(key) + b"\r\n\r\n"
    try:
        await stream.send_all(answer)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    if admitted is not None:
        bound = websockets.settings.message_bytes_most
        await websockets.serve(StreamConnection(stream, message_bytes_most=bound, rest=upgrade.rest), admitted)


def require_handshake(protocols: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the key of a handshake.

    Args:
        protocols: the values of the ``Upgrade`` headers.
        headers: the request's, with their names in lower case.

    Raises:
        Rejected: it is none, or not one for a websocket of this server.
    """
    if not any(name.strip().lower() == b"websocket" for value in protocols for name in value.split(b",")):
        raise Rejected(ProblemCode.MALFORMED_REQUEST, "Upgrade must be websocket: nothing else is spoken here")
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if versions != [_VERSION]:
        raise Rejected(
            ProblemCode.UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
            headers=((b"upgrade", b"websocket"), (b"sec-websocket-version", _VERSION)),
        )
    keys = [value.strip() for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_nonce(keys[0]):
        raise Rejected(ProblemCode.MALFORMED_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64, given once")
    return keys[0]


def _is_nonce(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _NONCE_BYTES
    except binascii.Error:
        return False
