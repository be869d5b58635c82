"""The client's connection against a server that says what the test has it say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio
import trio_websocket

from transfer_engine.actors.backoff import Backoff
from transfer_engine.http.client_channel import Channel
from transfer_engine.http.client_errors import ClientError, TransferRefused
from transfer_engine.http.client_events import Heard
from transfer_engine.http.client_tokens import TokenSource


@asynccontextmanager
async def channel_to_small_server(messages: int) -> AsyncIterator[tuple[Channel, trio.Event]]:
    """Yield a channel to a server that says of the n-th message that one was too large, and then answers all."""
    closed = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            connection = await request.accept()
            try:
                for _ in range(0 if closed.is_set() else messages):
                    await connection.get_message()
                if not closed.is_set():
                    closed.set()
                    await connection.aclose(1009, "a message is larger than 100 bytes")
                while True:
                    asked = msgspec.msgpack.decode(await connection.get_message())
                    await connection.send_message(msgspec.msgpack.encode({"id": asked["id"], "ok": True, "data": {}}))
            except trio_websocket.ConnectionClosed:
                pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        channel = Channel(
            f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/",
            TokenSource(None),
            backoff=Backoff(first_ms=1, most_ms=1),
            ping_interval_s=10,
            ssl_context=None,
            on_connected=lambda: None,
            on_event=lambda *_: None,
        )
        nursery.start_soon(channel.run)
        yield channel, closed
        nursery.cancel_scope.cancel()


async def test_where_the_largest_was_given_up_no_other_is_told_to_be_too_large() -> None:
    answers: list[Heard | ClientError] = []
    answered = trio.Event()

    def take(answer: Heard | ClientError) -> None:
        answers.append(answer)
        answered.set()

    with trio.fail_after(10):
        async with channel_to_small_server(2) as (channel, closed):
            channel.put("transfer", {"amount": 1}, on_answer=take)
            sent = trio.Event()
            large = channel.put("transfer", {"more": "x" * 200}, on_sent=sent.set)
            await sent.wait()
            channel.drop(large)
            await answered.wait()
            assert closed.is_set()
            assert isinstance(answers[0], Heard)
            assert answers[0].ok


async def test_the_largest_is_told_to_be_too_large_and_the_others_go_on() -> None:
    answers: list[Heard | ClientError] = []
    refusals: list[Heard | ClientError] = []
    answered = trio.Event()

    def take(answer: Heard | ClientError) -> None:
        answers.append(answer)
        answered.set()

    with trio.fail_after(10):
        async with channel_to_small_server(2) as (channel, _):
            channel.put("transfer", {"amount": 1}, on_answer=take)
            channel.put("transfer", {"more": "x" * 200}, on_answer=refusals.append)
            await answered.wait()
            assert isinstance(answers[0], Heard)
            assert isinstance(refusals[0], TransferRefused)
            assert refusals[0].code == "body_too_large"
