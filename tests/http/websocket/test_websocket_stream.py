"""Frames on a stream: whatever the client's parser-to-be makes of messages, they arrive, however they are cut up."""

import itertools
import tracemalloc

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection as FrameConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from transfer_engine.http.websocket_connection import CloseCode, ConnectionEnded, MessageRefused
from transfer_engine.http.websocket_stream import StreamConnection

EVENTS = st.one_of(
    st.text(max_size=300).map(lambda text: TextMessage(data=text)),
    st.binary(max_size=300).map(lambda data: BytesMessage(data=data)),
    st.integers(126, 70_000).map(lambda size: TextMessage(data="ä" * size)),
    st.text(max_size=20).map(lambda text: TextMessage(data=text, message_finished=False)),
    st.binary(max_size=125).map(lambda data: Ping(payload=data)),
    st.binary(max_size=125).map(lambda data: Pong(payload=data)),
)


async def everything(chunks: list[bytes], bytes_most: int = 1 << 20) -> tuple[list[str | bytes], Exception]:
    """Receive chunks; return the messages, and what ended them."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = StreamConnection(ours, message_bytes_most=bytes_most, rest=chunks[0] if chunks else b"")
    messages: list[str | bytes] = []

    async def send() -> None:
        for chunk in chunks[1:]:
            await theirs.send_all(chunk)
        await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            while True:
                messages += await connection.receive()
        except (ConnectionEnded, MessageRefused) as error:
            nursery.cancel_scope.cancel()
            return messages, error
    raise AssertionError


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(cuts)]


@given(events=st.lists(EVENTS, max_size=8), places=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_messages_arrive_however_they_are_cut_up(
    events: list[TextMessage | BytesMessage | Ping | Pong], places: list[int]
) -> None:
    client = FrameConnection(ConnectionType.CLIENT)
    data, expected, parts = b"", [], ""
    for event in events:
        if parts and isinstance(event, BytesMessage):
            continue  # a message is not changed in its middle
        data += client.send(event)
        if isinstance(event, TextMessage):
            parts += event.data
            if event.message_finished:
                expected.append(parts)
                parts = ""
            elif not parts:
                parts = ""
        elif isinstance(event, BytesMessage):
            expected.append(event.data)
        if isinstance(event, TextMessage) and not event.message_finished and not event.data:
            data += client.send(TextMessage(data="", message_finished=True))
            expected.append(parts)
            parts = ""
    messages, error = trio.run(everything, cut_up(data, places))
    assert messages == expected
    assert isinstance(error, ConnectionEnded)


@given(data=st.binary(max_size=400), places=st.lists(st.integers(0, 400), max_size=6))
def test_whatever_comes_is_refused_or_taken(data: bytes, places: list[int]) -> None:
    _, error = trio.run(everything, cut_up(data, places))
    assert isinstance(error, ConnectionEnded | MessageRefused)


@pytest.mark.parametrize("size", [100, 101, 125, 126, 200, 70_000])
@pytest.mark.parametrize("is_text", [False, True])
def test_the_bound_of_a_message(size: int, is_text: bool) -> None:
    client = FrameConnection(ConnectionType.CLIENT)
    data = client.send(TextMessage(data="x" * size) if is_text else BytesMessage(data=b"x" * size))
    messages, error = trio.run(everything, [data], 100)
    if size <= 100:
        assert len(messages) == 1
    else:
        assert messages == []
        assert isinstance(error, MessageRefused)
        assert error.code is CloseCode.TOO_LARGE


def test_a_goodbye_is_answered() -> None:
    async def program() -> None:
        client = FrameConnection(ConnectionType.CLIENT)
        ours, theirs = trio.testing.memory_stream_pair()
        connection = StreamConnection(ours, message_bytes_most=1_000)
        await theirs.send_all(client.send(TextMessage(data="hello")) + client.send(CloseConnection(code=1000)))
        assert await connection.receive() == ["hello"]
        with pytest.raises(ConnectionEnded):
            await connection.receive()
        await connection.close(1000, "")
        client.receive_data(bytes(await theirs.receive_some()))
        assert [type(event) for event in client.events()] == [CloseConnection]

    trio.run(program)


@pytest.mark.parametrize("payload", [b"", b"\r\n"])
@pytest.mark.parametrize("is_text", [False, True])
def test_a_message_in_many_parts_takes_no_more_than_its_bytes(is_text: bool, payload: bytes) -> None:
    first = bytes((0x01 if is_text else 0x02, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    part = bytes((0x00, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    last = b"\x80" + part[1:]

    async def program() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = StreamConnection(ours, message_bytes_most=1 << 20)
        messages: list[str | bytes] = []

        async def receive() -> None:
            messages.extend(await connection.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await theirs.send_all(first)
            await trio.testing.wait_all_tasks_blocked()
            tracemalloc.start()
            for _ in range(40):
                await theirs.send_all(part * 500)
            await trio.testing.wait_all_tasks_blocked()
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            await theirs.send_all(last)
        whole = payload * 20_002
        assert messages == [whole.decode() if is_text else whole]
        assert kept < 300_000

    trio.run(program)


@pytest.mark.parametrize("is_plain", [True, False])
def test_nothing_is_taken_behind_what_is_wrong(is_plain: bool) -> None:
    client = FrameConnection(ConnectionType.CLIENT)
    begin = (
        b""
        if is_plain
        else client.send(TextMessage(data="ze", message_finished=False)) + client.send(TextMessage(data="ro"))
    )
    wrong = b"\x81\x82\0\0\0\0\xff\xff"
    data = begin + client.send(TextMessage(data="one")) + wrong + client.send(TextMessage(data="two"))
    messages, error = trio.run(everything, [data])
    assert messages == ["zero"] * (not is_plain) + ["one"]
    assert isinstance(error, MessageRefused)
    assert error.code is CloseCode.BAD_UTF8
