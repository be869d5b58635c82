"""The floor of the websocket: trio-websocket sends every message back."""

import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def _echo(request: WebSocketRequest) -> None:
    websocket = await request.accept()
    try:
        while True:
            await websocket.send_message(await websocket.get_message())
    except ConnectionClosed:
        pass  # the client has left


def main() -> None:
    """Serve on the port that the first argument names, until terminated."""
    trio.run(lambda: serve_websocket(_echo, "127.0.0.1", int(sys.argv[1]), ssl_context=None))


if __name__ == "__main__":
    main()
