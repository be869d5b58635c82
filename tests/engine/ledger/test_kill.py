"""`kill -9` at any moment: what was answered is there, and a batch under way is there whole or not at all."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tigerbeetle import CreateTransferStatus as Status

from support import ledger_writer
from transfer_engine.engine.ledger.embedded import open_embedded_ledger

ROUNDS = 6
MOVED_A_BATCH = ledger_writer.MOVES_A_BATCH - 1


def write_until_killed(path: Path, first_batch: int, seconds: float) -> int:
    """Return how many batches were answered in all, by the count of what the process printed."""
    process = subprocess.Popen(
        [sys.executable, ledger_writer.__file__, str(path), str(first_batch)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        answered = [process.stdout.readline()]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answered.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    assert all(line.endswith("\n") for line in answered)
    return int(answered[-1]) + 1


async def test_what_was_answered_survives(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    batches = 0
    for _ in range(ROUNDS):
        batches = write_until_killed(path, batches, seconds=random.uniform(0, 0.3))
        async with open_embedded_ledger(
            path, recent_ids_max=ledger_writer.RECENT_IDS_MAX, late_limits=ledger_writer.LATE_LIMITS
        ) as ledger:
            [target] = await ledger.lookup_accounts([ledger_writer.TARGET])
            under_way = target.credits_posted - batches * MOVED_A_BATCH
            assert under_way in (0, MOVED_A_BATCH)
            assert target.credits_pending == 0
            for number in range(batches):
                events = ledger_writer.batch(number)
                found = await ledger.lookup_transfers([event.id for event in events])
                assert [one.id for one in found] == [event.id for event in events[:-2]]
            # The last two, under way perhaps, and what was refused in them: again, as recovery does.
            for number in (batches - 1, batches):
                results = await ledger.create_transfers(ledger_writer.batch(number))
                new = number == batches and not under_way
                assert {result.status for result in results[:-2]} == {Status.CREATED if new else Status.EXISTS}
                refused = [result.status for result in results[-2:]]
                first = [Status.EXCEEDS_CREDITS, Status.PENDING_TRANSFER_NOT_FOUND]
                assert refused == (first if new else [Status.ID_ALREADY_FAILED] * 2)
            batches += 1
            [source, target] = await ledger.lookup_accounts([ledger_writer.SOURCE, ledger_writer.TARGET])
            assert target.credits_posted == batches * MOVED_A_BATCH == source.debits_posted
    assert batches > 2 * ROUNDS
