"""Recovery: what a killed engine leaves is unfinished indeed, and settled afterwards."""

import json
from contextlib import aclosing
from pathlib import Path

from click.testing import CliRunner

from transfer_engine.benchmarks.command_line import bench
from transfer_engine.benchmarks.recovery import books_after, leave_and_kill, look_at_left
from transfer_engine.benchmarks.unfinished import Leave
from transfer_engine.engine import Settings, open_backends
from transfer_engine.engine.ledger.paging import transfer_pages
from transfer_engine.engine.records.paging import record_pages
from transfer_engine.schema.transfers import TransferState


async def test_what_is_left_is_unfinished_indeed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    leave = Leave(settings=settings.model_dump_json(), transfers=200, users=10, moved=0.4)
    await leave_and_kill(leave, tmp_path)
    credited = len(leave.everyone) + 1

    async with open_backends(settings) as (_, ledger, records):
        async with aclosing(record_pages(records)) as pages:
            rows = [row async for page in pages for row in page]
        async with aclosing(transfer_pages(ledger)) as pages:
            legs = [leg async for page in pages for leg in page]
    assert len(rows) == credited, "nothing but the users' money has a row"
    assert {row.state for row in rows} == {TransferState.COMMITTED}
    assert len(legs) == 2 * (credited + 80)

    left = await look_at_left(settings)
    assert len(set(left.unfinished)) == 200
    assert left.moved == 80
    assert not set(left.unfinished) & {row.req_id.int for row in rows}

    books = await books_after(settings, left, {"recovered": 199})
    assert "200 were unfinished, and 199 were taken up" in books.findings
    assert "120 transfers that were unfinished have not moved" in books.findings
    assert any("its row is missing" in finding for finding in books.findings)


def test_a_restart_settles_all_of_them(tmp_path: Path) -> None:
    page = tmp_path / "report.json"
    options = ("--transfers", "200", "--users", "10", "--quiet", "--json", str(page))
    ran = CliRunner().invoke(bench, ["recovery", *options])
    assert ran.exit_code == 0, ran.output
    [found] = json.loads(page.read_text())["recoveries"]
    assert (found["unfinished"], found["moved"]) == (200, 100)
    assert found["books"]["findings"] == []
    assert "200 that were unfinished looked for by name" in found["books"]["how"]
    assert 0 < found["answering_s"] <= found["ready_s"] <= found["settled_s"]
    assert found["first_transfer_s"] > 0
    assert found["asked"]["committed"] >= 1
    assert found["open_over_time"][-1][1] == 0
    assert found["lag_ms"]["count"] > 0
