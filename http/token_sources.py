"""Where the keys come from, and how they are kept fresh: files that are watched, and a URL that is asked.

A source's fault is nobody's refusal: what is known goes on, and whoever comes with an unknown key meanwhile is told
that it can't be decided now.
"""

import math
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import httpx
import structlog
import trio

from transfer_engine.actors import Backoff
from transfer_engine.http.configuration_file import ConfigurationError
from transfer_engine.http.token_keys import (
    HMAC_ALGORITHM,
    JWKS_ALGORITHMS,
    KEY_SET_BYTES_MOST,
    Key,
    KeySet,
    KeysUnusable,
    parse_key_set,
    parse_secret,
)

_log: Final = structlog.stdlib.get_logger("transfer_engine.http.tokens")

FILE_LOOK_S: Final = 1.0
"""How often files are looked at: one ``stat`` each."""
_FILE_LOOK_PAUSE_S: Final = 0.1
"""A file is not looked at again for an unknown key within this."""
_FILE_TIMEOUT_S: Final = 5.0
"""A disk that does not answer within this can't be read now."""
URL_ASK_PAUSE_S: Final = 2.0
"""The URL is not asked again for an unknown key within this: anybody can make such tokens up."""
URL_TIMEOUT_S: Final = 5.0
_RETRIES: Final = Backoff(first_ms=1_000, most_ms=30_000)

Parsed = TypeVar("Parsed")
_Identity = tuple[int, int, int]
"""A file's time of change (ns), size and inode."""


class KeySource(Protocol):
    """Keys that may change. ``on_change`` is called whenever one that was known is not any more, or another is."""

    algorithms: frozenset[str]
    on_change: Callable[[], None]

    def __len__(self) -> int:
        """Return how many keys are known."""
        ...

    def find(self, algorithm: str, key_id: str | None) -> Key | None:
        """Return the key that a token names, if it is known."""
        ...

    async def look_again(self) -> bool:
        """See whether there are other keys now; False where that can't be told. Cancellation leaves nothing behind."""
        ...

    async def run(self) -> None:
        """Keep the keys fresh until cancelled; no fault ends it."""
        ...


def _nothing() -> None:
    pass


class WatchedFile(Generic[Parsed]):
    """A file's content, parsed; read again when its time, size or place on disk changes.

    A change that can't be read or parsed is logged once, and the former content goes on.
    """

    def __init__(self, path: Path, setting: str, parse: Callable[[bytes], Parsed]) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it can't be read or used; the message names the setting.
        """
        self._path = path
        self._setting = setting
        self._parse = parse
        self._fault: str | None = None
        self._looked_at = -math.inf
        self._looking = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)  # a disk that hangs keeps one thread, not all of them
        self.on_change = _nothing
        try:
            self._identity, raw = self._read(None)
            self.content = parse(raw or b"")
        except KeysUnusable as reason:
            raise ConfigurationError(f"{setting} {path}: {reason}") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._setting} {self._path}{', unusable now' if self._fault else ''}>"

    async def look_again(self) -> bool:
        """Read the file if it has changed; False while it can't be used. Cancellation leaves nothing behind."""
        with trio.move_on_after(_FILE_TIMEOUT_S):
            async with self._looking:
                if trio.current_time() >= self._looked_at + _FILE_LOOK_PAUSE_S:
                    await self._look()
                    self._looked_at = trio.current_time()
            return self._fault is None
        return False

    async def run(self) -> None:
        """Look at the file every second until cancelled."""
        while True:
            await trio.sleep(FILE_LOOK_S)
            await self.look_again()

    async def _look(self) -> None:
        seen = self._identity if self._fault is None else None
        try:
            identity, raw = await trio.to_thread.run_sync(
                self._read, seen, abandon_on_cancel=True, limiter=self._one_thread
            )
            content = self.content if raw is None else self._parse(raw)
        except KeysUnusable as reason:
            if self._fault != str(reason):
                self._fault = str(reason)
                _log.error("key file can't be used: the former keys go on", setting=self._setting, reason=self._fault)
            return
        except Exception:  # noqa: BLE001 - whatever a disk does, the server goes on with what it knows
            self._fault = "it can't be looked at"
            _log.exception("key file can't be looked at: the former keys go on", setting=self._setting)
            return
        self._fault = None
        self._identity = identity
        if raw is not None:
            _log.info("key file read again", setting=self._setting)
        if content != self.content:
            self.content = content
            self.on_change()

    def _read(self, seen: _Identity | None) -> tuple[_Identity, bytes | None]:
        """Return what the file is now and, unless it is what was seen, its bytes. Runs in a thread."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_mtime_ns, status.st_size, status.st_ino)
                return identity, None if identity == seen else file.read(KEY_SET_BYTES_MOST + 1)
        except OSError as error:
            raise KeysUnusable(f"it can't be read: {error.strerror}") from None


class SecretFile(WatchedFile[bytes]):
    """The secret of a file: good for HS256, and for nothing else, whatever ``kid`` a token has."""

    algorithms: frozenset[str] = frozenset({HMAC_ALGORITHM})

    def __init__(self, path: Path) -> None:
        super().__init__(path, "tokens.secret_file", parse_secret)

    def __len__(self) -> int:
        return 1

    def find(self, algorithm: str, _key_id: str | None) -> Key | None:
        """Return the secret."""
        return self.content if algorithm == HMAC_ALGORITHM else None


class JwksFile(WatchedFile[KeySet]):
    """The public keys of a file."""

    algorithms: frozenset[str] = JWKS_ALGORITHMS

    def __init__(self, path: Path) -> None:
        super().__init__(path, "tokens.jwks_file", parse_key_set)
        _tell_skipped("tokens.jwks_file", self.content)

    def __len__(self) -> int:
        return len(self.content)

    def find(self, algorithm: str, key_id: str | None) -> Key | None:
        """Return the key that a token names, if it is known."""
        return self.content.find(algorithm, key_id)


class JwksUrl:
    """The keys that a URL answers with: asked at the start, every ``refresh_s``, and for keys that are not known.

    One question at a time, whoever waits; :meth:`run` asks, so that nobody's leaving takes the others' answer away.
    """

    algorithms: frozenset[str] = JWKS_ALGORITHMS

    def __init__(self, ask: Callable[[], Awaitable[bytes]], *, refresh_s: float) -> None:
        self._ask = ask
        self._refresh_s = refresh_s
        self.on_change = _nothing
        self._keys = KeySet()
        self._is_current = False
        self._faults = 0
        self._answered_at = -math.inf
        self._wanted = trio.Event()
        self._answered = trio.Event()
        self._is_asking = False

    def __repr__(self) -> str:
        return f"<JwksUrl {len(self._keys)} keys, {self._faults} faults in a row>"

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, algorithm: str, key_id: str | None) -> Key | None:
        """Return the key that a token names, if it is known."""
        return self._keys.find(algorithm, key_id)

    async def look_again(self) -> bool:
        """Ask unless it was asked just now; False where no answer came. Cancellation leaves the question under way."""
        if not self._is_asking and trio.current_time() < self._answered_at + URL_ASK_PAUSE_S:
            return self._is_current
        self._wanted.set()
        answered = self._answered
        with trio.move_on_after(URL_TIMEOUT_S + 1):
            await answered.wait()
            return self._is_current
        return False

    async def run(self) -> None:
        """Ask again and again until cancelled; no fault ends it."""
        while True:
            self._is_asking = True
            try:
                await self._ask_once()
            finally:
                self._is_asking = False
                self._answered_at = trio.current_time()
                self._answered.set()
                self._answered = trio.Event()
            self._wanted = trio.Event()  # whoever came meanwhile has the answer, too
            pause_s = _RETRIES.ceiling_ms(self._faults) / 1_000 if self._faults else self._refresh_s
            with trio.move_on_after(pause_s):
                await self._wanted.wait()

    async def _ask_once(self) -> None:
        try:
            with trio.fail_after(URL_TIMEOUT_S):
                keys = parse_key_set(await self._ask())
        except trio.TooSlowError:
            self._failed(f"there was no whole answer within {URL_TIMEOUT_S:g} s")
        except KeysUnusable as reason:
            self._failed(str(reason))
        except Exception as error:  # noqa: BLE001 - whatever the other side does, what is known goes on
            self._failed(f"{type(error).__name__}")
        else:
            if self._faults or keys != self._keys:
                _log.info("keys fetched", setting="tokens.jwks_url", keys=len(keys))
            if keys.skipped != self._keys.skipped:
                _tell_skipped("tokens.jwks_url", keys)
            if keys != self._keys:
                self._keys = keys
                self.on_change()
            self._is_current = True
            self._faults = 0

    def _failed(self, reason: str) -> None:
        self._is_current = False
        self._faults += 1
        if self._faults & (self._faults - 1) == 0:  # the 1st, 2nd, 4th, 8th in a row: a long outage is no flood
            _log.warning(
                "keys can't be fetched: the former ones go on",
                setting="tokens.jwks_url",
                reason=reason,
                known=len(self._keys),
                times=self._faults,
            )


async def fetch_key_set(url: str) -> bytes:
    """Return what a URL answers, with time (5 s) and size bounded; redirects are not followed.

    Raises:
        KeysUnusable: there is no such answer; the message says why.
    """
    is_https = url.startswith("https:")
    try:
        # Proxies and certificates of the environment are for the world; loopback is asked directly.
        async with httpx.AsyncClient(timeout=URL_TIMEOUT_S, trust_env=is_https, follow_redirects=False) as client:
            headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
            async with client.stream("GET", url, headers=headers) as response:
                return await _read_answer(response)
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise KeysUnusable(f"it does not answer: {_words(error)}") from None


async def _read_answer(response: httpx.Response) -> bytes:
    if response.status_code != 200:
        raise KeysUnusable(f"it answers with status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise KeysUnusable("it answers compressed, which was not asked for")
    raw = b""
    try:
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > KEY_SET_BYTES_MOST:
                # The loop is left by the error that follows: its generators would be left open by anything else.
                await response.aclose()
    except httpx.HTTPError:
        if len(raw) <= KEY_SET_BYTES_MOST:
            raise
    if len(raw) > KEY_SET_BYTES_MOST:
        raise KeysUnusable(f"its answer is larger than {KEY_SET_BYTES_MOST >> 10} KiB")
    return raw


def _words(error: BaseException) -> str:
    """Return what an error says, or else the error that it comes from: httpx wraps some without a word."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause) if cause is not None else type(error).__name__


def _tell_skipped(setting: str, keys: KeySet) -> None:
    if keys.skipped:
        _log.warning("keys are left out", setting=setting, reasons=list(keys.skipped[:10]))
