import pytest
import trio

from transfer_engine.actors import bounded_cleanup, drain_within


async def test_what_drains_in_time_drains_in_order(autojump_clock):
    notes = []

    def drain(name):
        async def wait():
            await trio.sleep(1)
            notes.append((name, trio.current_time()))

        return wait

    assert await drain_within(2_500, drain("actors"), drain("recorder"))
    assert notes == [("actors", 1), ("recorder", 2)]


async def test_the_deadline_is_for_all_drains_together(autojump_clock):
    async def wait():
        await trio.sleep(2)

    assert not await drain_within(3_000, wait, wait)
    assert trio.current_time() == 3


async def test_a_drain_that_fails_says_so(autojump_clock):
    async def fail():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await drain_within(3_000, fail)


async def test_a_cleanup_is_shielded_up_to_its_deadline(autojump_clock):
    notes = []
    with trio.CancelScope() as outer:
        outer.cancel()
        with bounded_cleanup(1_000) as scope:
            await trio.sleep(0.5)
            notes.append("cleaned up")
        assert not scope.cancelled_caught
        with bounded_cleanup(1_000) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(1.5)
        await trio.lowlevel.checkpoint()
        notes.append("never")
    assert notes == ["cleaned up"]


def test_a_cleanup_without_time_is_refused():
    with pytest.raises(ValueError, match="deadline"):
        bounded_cleanup(0)
