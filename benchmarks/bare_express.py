"""The floor of the express door: an answer of the same size to any POST, by httptools on bare trio streams."""

import sys

import httptools
import trio

ANSWER = b'{"req_id":"e3521be8-1cea-8cf1-8c8a-153eb5d94a30","status":"committed","message":null}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


class _Requests:
    """Counts requests that are complete."""

    def __init__(self) -> None:
        self.complete = 0
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.complete += 1


async def _serve(stream: trio.SocketStream) -> None:
    requests = _Requests()
    parser = httptools.HttpRequestParser(requests)
    async with stream:
        try:
            while data := await stream.receive_some(65_536):
                parser.feed_data(data)
                complete, requests.complete = requests.complete, 0
                if complete:
                    await stream.send_all((_HEAD + ANSWER) * complete)
        except trio.BrokenResourceError:
            pass  # the client has left


def main() -> None:
    """Serve on the port that the first argument names, until terminated."""
    trio.run(trio.serve_tcp, _serve, int(sys.argv[1]))


if __name__ == "__main__":
    main()
