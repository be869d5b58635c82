"""Serve one baseline: FastAPI on uvicorn with uvloop and httptools, one process, kept-alive connections, no access log.

python -m transfer_engine.benchmarks.baselines.serve sqlite --port 8000 --data-dir /tmp/baseline
"""

import argparse
from pathlib import Path

import uvicorn

from transfer_engine.benchmarks.baselines.shapes import Opening, Store, make_app


def main() -> None:
    """Serve on loopback until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=["sqlite", "postgres", "tigerbeetle"])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--funds", type=int, default=10**14, help="of each user in each account, in minor units")
    parser.add_argument("--data-dir", type=Path, default=Path(), help="for SQLite's file")
    parser.add_argument("--dsn", help="of PostgreSQL")
    parser.add_argument("--addresses", default="3000", help="of TigerBeetle")
    parser.add_argument("--cluster-id", type=int, default=0, help="of TigerBeetle")
    arguments = parser.parse_args()
    app = make_app(_store(arguments), Opening(users=arguments.users, funds=arguments.funds))
    uvicorn.run(
        app, host="127.0.0.1", port=arguments.port, loop="uvloop", http="httptools", access_log=False, log_level="error"
    )


def _store(arguments: argparse.Namespace) -> Store:
    """Make the store; only what it needs is imported."""
    if arguments.store == "sqlite":
        from transfer_engine.benchmarks.baselines.sqlite_store import SqliteStore  # noqa: PLC0415

        return SqliteStore(arguments.data_dir / "baseline.db")
    if arguments.store == "postgres":
        from transfer_engine.benchmarks.baselines.postgres_store import PostgresStore  # noqa: PLC0415

        return PostgresStore(arguments.dsn or "")
    from transfer_engine.benchmarks.baselines.tigerbeetle_store import TigerBeetleStore  # noqa: PLC0415

    return TigerBeetleStore(arguments.addresses, arguments.cluster_id)


if __name__ == "__main__":
    main()
