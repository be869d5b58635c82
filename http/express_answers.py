"""Answers as bytes: heads are made from parts that are formatted once."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from transfer_engine.http.messages import Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_CLOSE: Final = b"connection: close\r\n"


class Answers:
    """Formats answers; all connections of a door share it."""

    def __init__(self) -> None:
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._second = 0
        self._date = b""

    def encode(self, response: Response, *, is_head: bool = False, closes: bool = False) -> bytes:
        """Return an answer as it goes over the wire; for HEAD without its body, and telling if it is the last."""
        head = self._heads.get((response.status, response.media_type))
        if head is None:
            head = self._start(response.status, response.media_type)
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = b"\r\ndate: " + formatdate(now, usegmt=True).encode() + b"\r\n"
        body = response.body
        if not response.headers and not closes:
            return b"%b%d%b\r\n%b" % (head, len(body), self._date, b"" if is_head else body)
        lines = b"".join(b"%b: %b\r\n" % header for header in response.headers)
        return b"%b%d%b%b%b\r\n%b" % (
            head,
            len(body),
            self._date,
            lines,
            _CLOSE if closes else b"",
            b"" if is_head else body,
        )

    def _start(self, status: int, media_type: bytes) -> bytes:
        phrase = HTTPStatus(status).phrase.encode()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: " % (status, phrase, media_type)
        self._heads[status, media_type] = head
        return head
