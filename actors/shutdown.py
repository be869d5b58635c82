"""Graceful, then bounded, then forced: draining within a deadline, and the one shield for cleanup."""

from collections.abc import Awaitable, Callable

import trio


def bounded_cleanup(deadline_ms: int) -> trio.CancelScope:
    """Return a scope whose body is shielded from cancellation, but for at most ``deadline_ms``.

    The one way to await something while being cancelled: ``with bounded_cleanup(500): await file.aclose()``. After the
    deadline the body is cancelled; the scope's ``cancelled_caught`` then tells so.
    """
    if deadline_ms <= 0:
        raise ValueError(f"a cleanup needs a deadline above 0 ms, not {deadline_ms}")
    return trio.move_on_after(deadline_ms / 1000, shield=True)


async def drain_within(deadline_ms: int, *drains: Callable[[], Awaitable[None]]) -> bool:
    """Await ``drains``, one after the other, for at most ``deadline_ms`` together; True if all returned in time.

    Give them in the order in which work flows (doors, actors, group commits), so that each is empty before the next is
    waited for. What is not drained at the deadline is left as it is: cancel it then. Cancellation leaves undrained what
    was not waited for yet. Raises what a drain raises.
    """
    with trio.move_on_after(deadline_ms / 1000):
        for drain in drains:
            await drain()
        return True
    return False
