"""A bench: several loads on one target, faults amid them, and books that don't hold."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from transfer_engine.benchmarks.engine_sender import EngineSubject
from transfer_engine.benchmarks.machine import this_machine
from transfer_engine.benchmarks.plan import ASSET_ID, SLOW_CORE, Closed, Fault, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.running import open_bench, run
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.http.settings import ServerSettings

FEW = Traffic(users=3)
SHORT = Length(transfers=40, warm_up_s=0)


async def test_one_bench_has_as_many_loads_as_one_likes() -> None:
    async with open_bench(Target(), FEW, Sources()) as several:
        closed = await several.measure(Plan(traffic=FEW, loop=Closed(in_flight=5), length=SHORT))
        opened = await several.measure(Plan(traffic=FEW, loop=Open(rate=500), length=SHORT))
        books = await several.books()
    assert closed.outcomes == opened.outcomes == {"committed": 40}
    assert closed.name != opened.name
    assert books.hold


async def test_an_engine_in_process_has_no_faults() -> None:
    plan = Plan(traffic=FEW, loop=Closed(in_flight=2), faults=(Fault(at_s=0, what="kill-server"),))
    with pytest.raises(RuntimeError, match="kill-server"):
        await run(plan, Sources())


async def test_books_that_do_not_hold_are_told(tmp_path: Path) -> None:
    sources = Sources(settings=ServerSettings(data_dir=tmp_path))
    async with open_bench(Target(), FEW, sources) as tampered:
        await tampered.measure(Plan(traffic=FEW, loop=Closed(in_flight=5), length=SHORT))
        with closing(sqlite3.connect(tmp_path / "records.db", timeout=10)) as records:
            records.execute("DELETE FROM transfers WHERE number = (SELECT max(number) FROM transfers)")
            records.commit()
        books = await tampered.books()
    assert not books.hold
    assert "I7" in books.findings[0]


async def test_a_core_that_has_something_else_is_told() -> None:
    traffic = Traffic(users=3, slow=0.5, slow_ms=0)
    async with open_bench(Target(), traffic, Sources()) as tampered:
        result = await tampered.measure(Plan(traffic=traffic, loop=Closed(in_flight=5), length=SHORT))
        assert result.outcomes == {"committed": 40}
        assert isinstance(tampered.subject, EngineSubject)
        await tampered.subject.engine.simulated_cores[SLOW_CORE].fund(1, ASSET_ID, 5)
        books = await tampered.books()
    [finding] = books.findings
    assert SLOW_CORE in finding


def test_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "tigerbeetle"
    server.write_text("#!/bin/sh\necho 'TigerBeetle version 1.2.3+abc'\n")
    server.chmod(0o755)
    monkeypatch.setenv("TIGERBEETLE_BINARY", str(server))
    found = this_machine()
    assert found.cores >= 1
    assert found.memory_mib > 100
    assert found.python.startswith("CPython 3.")
    assert found.versions["tigerbeetle server"] == "1.2.3"
    assert found.versions["transfer-engine"]
    monkeypatch.setenv("TIGERBEETLE_BINARY", str(tmp_path / "none"))
    assert "tigerbeetle server" not in this_machine().versions
