"""Keys that change, and keys that can't be had: what is known goes on, and what is not known is nobody's refusal."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from support.tokens import (
    Clock,
    Signer,
    authenticator,
    bearer,
    claims_of,
    hs256,
    jwks,
    new_secret,
    refusal,
    signer,
)
from transfer_engine.http.problems import ProblemCode, Rejected, problem_of_rejection
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.token_sources import URL_ASK_PAUSE_S, URL_TIMEOUT_S, JwksUrl
from transfer_engine.http.tokens import TokenAuthenticator

FIRST = signer("EdDSA", "first")
SECOND = signer("EdDSA", "second")
THIRD = signer("EdDSA", "third")


@pytest.fixture
def patient_clock() -> MockClock:
    """Jumps only when nothing has happened for a while: files are read in a thread, which the clock does not see."""
    return MockClock(autojump_threshold=0.3)


def replace(path: Path, content: bytes) -> None:
    """Write another file and rename it, as whoever rotates keys does."""
    path.with_suffix(".other").write_bytes(content)
    path.with_suffix(".other").rename(path)


def is_undecided(rejected: Rejected) -> bool:
    problem = problem_of_rejection(rejected)
    assert problem.status != 503 or (problem.retryable and problem.headers[0][0] == b"retry-after")
    return rejected.code is ProblemCode.UNAVAILABLE


@asynccontextmanager
async def running(gatekeeper: TokenAuthenticator) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gatekeeper.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


# Files


async def test_a_key_that_joins_a_file_is_known_at_once(tmp_path: Path, patient_clock: MockClock) -> None:
    gatekeeper = authenticator(tmp_path, keys=jwks(FIRST))
    await gatekeeper.authenticate(bearer(FIRST.token()))
    assert "no key of ours" in (await refusal(gatekeeper, SECOND.token())).detail
    replace(tmp_path / "jwks.json", jwks(FIRST, SECOND))
    await trio.sleep(0.2)
    assert await gatekeeper.authenticate(bearer(SECOND.token()))
    assert await gatekeeper.authenticate(bearer(FIRST.token()))


async def test_a_key_that_leaves_a_file_is_forgotten_within_seconds(tmp_path: Path, patient_clock: MockClock) -> None:
    gatekeeper = authenticator(tmp_path, keys=jwks(FIRST, SECOND))
    old, kept = bearer(FIRST.token()), bearer(SECOND.token())
    await gatekeeper.authenticate(old)
    await gatekeeper.authenticate(kept)
    async with running(gatekeeper):
        replace(tmp_path / "jwks.json", jwks(SECOND))
        while gatekeeper.known(old) is not None:
            await trio.sleep(0.5)
            assert trio.current_time() < 60
        assert (await refusal(gatekeeper, old)).code is ProblemCode.UNAUTHENTICATED
        assert await gatekeeper.authenticate(kept)


async def test_another_key_under_the_same_kid(tmp_path: Path, patient_clock: MockClock) -> None:
    before, after = signer("ES256", "same"), Signer("ES256", "same")
    gatekeeper = authenticator(tmp_path, keys=jwks(before))
    await gatekeeper.authenticate(bearer(before.token()))
    replace(tmp_path / "jwks.json", jwks(after))
    async with running(gatekeeper):
        while gatekeeper.statistics().remembered:  # noqa: ASYNC110 - a file's change has no event
            await trio.sleep(0.5)
        await gatekeeper.authenticate(bearer(after.token()))
        assert "signature is wrong" in (await refusal(gatekeeper, before.token())).detail


async def test_a_file_that_is_written_again_unchanged(tmp_path: Path, patient_clock: MockClock) -> None:
    gatekeeper = authenticator(tmp_path, secret=new_secret(), keys=jwks(FIRST))
    header = bearer(FIRST.token())
    await gatekeeper.authenticate(header)
    for name in ("jwks.json", "secret"):
        replace(tmp_path / name, (tmp_path / name).read_bytes())
    with capture_logs() as logs:
        async with running(gatekeeper):
            while len(logs) < 2:  # noqa: ASYNC110
                await trio.sleep(1)
    assert {entry["event"] for entry in logs} == {"key file read again"}
    assert gatekeeper.known(header) is not None


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: replace(path, b""),
    "half": lambda path: replace(path, path.read_bytes()[:20]),
    "a directory": lambda path: (path.unlink(), path.mkdir())[0],
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_a_key_file_that_breaks(tmp_path: Path, breakage: str, patient_clock: MockClock) -> None:
    path = tmp_path / "jwks.json"
    gatekeeper = authenticator(tmp_path, keys=jwks(FIRST))
    known = bearer(FIRST.token())
    await gatekeeper.authenticate(known)
    BREAKAGES[breakage](path)
    with capture_logs() as logs:
        for _ in range(3):
            await trio.sleep(1)
            assert is_undecided(await refusal(gatekeeper, SECOND.token()))
    [told] = logs
    assert (told["setting"], told["log_level"]) == ("tokens.jwks_file", "error")
    assert gatekeeper.known(known) is not None
    assert await gatekeeper.authenticate(bearer(FIRST.token(claims_of(jti="unused"))))
    if path.is_dir():
        path.rmdir()
    replace(path, jwks(SECOND))
    await trio.sleep(1)
    assert await gatekeeper.authenticate(bearer(SECOND.token()))
    assert gatekeeper.known(known) is None
    assert not is_undecided(await refusal(gatekeeper, known))


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, patient_clock: MockClock) -> None:
    path = tmp_path / "jwks.json"
    gatekeeper = authenticator(tmp_path, keys=jwks(FIRST))
    known = bearer(FIRST.token())
    await gatekeeper.authenticate(known)
    path.unlink()
    os.mkfifo(path)  # whoever opens it for reading waits for a writer
    try:
        async with running(gatekeeper):
            for _ in range(3):
                began = trio.current_time()
                assert is_undecided(await refusal(gatekeeper, SECOND.token()))
                assert trio.current_time() - began <= 10
            assert gatekeeper.known(known) is not None
    finally:
        os.close(os.open(path, os.O_WRONLY))


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_a_secret_file_that_breaks(tmp_path: Path, breakage: str, patient_clock: MockClock) -> None:
    path, secrets = tmp_path / "secret", [new_secret(), new_secret()]
    gatekeeper = authenticator(tmp_path, secret=secrets[0])
    old, new = (hs256(claims_of(), secret) for secret in secrets)
    await gatekeeper.authenticate(bearer(old))
    assert not is_undecided(await refusal(gatekeeper, new))
    BREAKAGES[breakage](path)
    await trio.sleep(1)
    assert is_undecided(await refusal(gatekeeper, new))
    assert gatekeeper.known(bearer(old)) is not None
    if path.is_dir():
        path.rmdir()
    replace(path, secrets[1] + b"\n")
    await trio.sleep(1)
    assert await gatekeeper.authenticate(bearer(new))
    assert not is_undecided(await refusal(gatekeeper, old))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_any_more(tmp_path: Path, patient_clock: MockClock) -> None:
    gatekeeper = authenticator(tmp_path, keys=jwks(FIRST))
    replace(tmp_path / "jwks.json", jwks(SECOND))
    (tmp_path / "jwks.json").chmod(0)
    assert is_undecided(await refusal(gatekeeper, SECOND.token()))


# A URL, as far as it is about when to ask


class Answers:
    """Answers questions for keys, and notes when they came."""

    def __init__(self, *keys: object) -> None:
        self.answer: bytes | Exception = jwks(*keys) if keys else OSError("nobody there")
        self.asked: list[float] = []
        self.delay_s = 0.0

    async def __call__(self) -> bytes:
        self.asked.append(trio.current_time())
        await trio.sleep(self.delay_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def by_url(ask: Callable[[], Awaitable[bytes]], refresh_s: float = 300.0) -> TokenAuthenticator:
    settings = TokenSettings(jwks_url="https://id.example/keys")
    return TokenAuthenticator(settings, sources=[JwksUrl(ask, refresh_s=refresh_s)], clock=Clock())


async def test_a_url_is_asked_at_the_start_and_again_and_again(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    async with running(by_url(answers)):
        await trio.sleep(1_000)
    assert answers.asked == [0, 300, 600, 900]


async def test_an_unknown_kid_is_asked_for_at_once_but_not_too_often(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    gatekeeper = by_url(answers)
    async with running(gatekeeper):
        await gatekeeper.authenticate(bearer(FIRST.token()))
        for _ in range(100):
            assert not is_undecided(await refusal(gatekeeper, SECOND.token()))
        assert answers.asked == [0]
        await trio.sleep(URL_ASK_PAUSE_S)
        answers.answer = jwks(FIRST, SECOND)
        assert await gatekeeper.authenticate(bearer(SECOND.token()))
        assert answers.asked == [0, URL_ASK_PAUSE_S]
        await trio.sleep(100)
        for _ in range(100):
            assert not is_undecided(await refusal(gatekeeper, THIRD.token()))
        assert answers.asked == [0, URL_ASK_PAUSE_S, URL_ASK_PAUSE_S + 100]


async def test_whoever_waits_shares_one_question(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    gatekeeper = by_url(answers)
    taken = []

    async def ask(header: tuple[bytes, ...]) -> None:
        taken.append(await gatekeeper.authenticate(header))

    async with running(gatekeeper):
        await trio.sleep(10)
        answers.answer, answers.delay_s = jwks(SECOND), 1.0
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, bearer(SECOND.token(claims_of(str(number + 1)))))
        assert len(taken) == 100
        await trio.sleep(100)
        assert answers.asked == [0, 10]


async def test_a_waiter_that_leaves_takes_nobodys_answer_away(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    gatekeeper = by_url(answers)
    async with running(gatekeeper):
        await trio.sleep(10)
        answers.answer, answers.delay_s = jwks(SECOND), 1.0
        with trio.move_on_after(0.5) as left:
            await gatekeeper.authenticate(bearer(SECOND.token()))
        assert left.cancelled_caught
        assert (await gatekeeper.authenticate(bearer(SECOND.token()))).user_id == 3001
    assert answers.asked == [0, 10]


@pytest.mark.parametrize(
    "fault",
    [
        OSError("away"),
        RuntimeError("a bug"),
        ValueError("x"),
        ExceptionGroup("", [OSError()]),
        b"",
        b"<html>",
        b"{}",
        jwks({}),
    ],
)
async def test_a_url_that_fails_is_nobodys_refusal(fault: Exception | bytes, autojump_clock: MockClock) -> None:
    answers = Answers()
    answers.answer = fault
    gatekeeper = by_url(answers)
    with capture_logs() as logs:
        async with running(gatekeeper):
            assert is_undecided(await refusal(gatekeeper, FIRST.token()))
            await trio.sleep(100)
            assert is_undecided(await refusal(gatekeeper, FIRST.token()))
            pauses = [later - earlier for earlier, later in zip(answers.asked, answers.asked[1:], strict=False)]
            assert pauses[:5] == [1, 2, 4, 8, 16]
            assert max(pauses) <= 30
            assert len([entry for entry in logs if entry["log_level"] == "warning"]) <= 5
            answers.answer = jwks(FIRST)
            await trio.sleep(31)
            assert await gatekeeper.authenticate(bearer(FIRST.token()))


async def test_while_a_url_fails_known_keys_go_on(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    gatekeeper = by_url(answers, refresh_s=10)
    used = bearer(FIRST.token())
    async with running(gatekeeper):
        await gatekeeper.authenticate(used)
        answers.answer = OSError("away")
        await trio.sleep(1_000)
        assert gatekeeper.known(used) is not None
        assert await gatekeeper.authenticate(bearer(FIRST.token(claims_of(jti="unused"))))
        assert is_undecided(await refusal(gatekeeper, SECOND.token()))
        tampered = FIRST.token()[:-4] + "AAAA"
        assert not is_undecided(await refusal(gatekeeper, tampered)), "its key is known"


async def test_a_url_that_does_not_answer_is_given_up_in_time(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST)
    answers.delay_s = 1e6
    gatekeeper = by_url(answers)
    async with running(gatekeeper):
        began = trio.current_time()
        assert is_undecided(await refusal(gatekeeper, FIRST.token()))
        assert trio.current_time() - began <= URL_TIMEOUT_S
        answers.delay_s = 0
        await trio.sleep(2)
        assert await gatekeeper.authenticate(bearer(FIRST.token()))


async def test_a_key_that_leaves_a_url_is_forgotten(autojump_clock: MockClock) -> None:
    answers = Answers(FIRST, SECOND)
    gatekeeper = by_url(answers, refresh_s=60)
    headers = [bearer(key.token()) for key in (FIRST, SECOND)]
    async with running(gatekeeper):
        for header in headers:
            await gatekeeper.authenticate(header)
        answers.answer = jwks(SECOND, FIRST)
        await trio.sleep(61)
        assert all(gatekeeper.known(header) for header in headers), "another order is no change"
        answers.answer = jwks(SECOND)
        await trio.sleep(61)
        assert not is_undecided(await refusal(gatekeeper, headers[0]))
        assert await gatekeeper.authenticate(headers[1])


async def test_nobody_waits_for_ever_for_a_question_that_nobody_asks(autojump_clock: MockClock) -> None:
    gatekeeper = by_url(Answers(FIRST))
    assert is_undecided(await refusal(gatekeeper, FIRST.token()))
    assert trio.current_time() <= URL_TIMEOUT_S + 1


async def test_a_file_and_a_url(tmp_path: Path, patient_clock: MockClock) -> None:
    answers = Answers(SECOND)
    in_file = authenticator(tmp_path, keys=jwks(FIRST))._sources
    url = JwksUrl(answers, refresh_s=300)
    settings = TokenSettings(jwks_url="https://id.example/keys")
    gatekeeper = TokenAuthenticator(settings, sources=[*in_file, url], clock=Clock())
    async with running(gatekeeper):
        for key in (FIRST, SECOND):
            assert await gatekeeper.authenticate(bearer(key.token()))
        assert not is_undecided(await refusal(gatekeeper, THIRD.token()))
        answers.answer = OSError("away")
        await trio.sleep(10)
        assert is_undecided(await refusal(gatekeeper, THIRD.token()))
        assert await gatekeeper.authenticate(bearer(FIRST.token(claims_of(jti="unused"))))
