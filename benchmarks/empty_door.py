"""The floor of the main door: an empty POST on quart-trio and hypercorn, as a server process of its own."""

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio


def main() -> None:
    """Serve an empty ``POST /api/v1/transfer`` on the port that the first argument names, until terminated."""
    app = QuartTrio(__name__)

    @app.post("/api/v1/transfer")
    async def empty() -> Response:
        return Response(b"", status=200)

    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_max_requests = 1_000_000
    trio.run(serve, app, config)


if __name__ == "__main__":
    main()
