"""Who subscribes to a user's stream, and holds what he is told against the rules of streams."""

from typing import TYPE_CHECKING, Any

import trio

from support.engines import World, until
from transfer_engine.engine import Engine
from transfer_engine.engine.outcomes import Balance
from transfer_engine.engine.stream_rings import StreamEvent, StreamSnapshot
from transfer_engine.schema.transfers import TransferRecord, TransferState

if TYPE_CHECKING:
    from collections.abc import Callable

    from transfer_engine.engine.user_streams import Subscription


class Reader:
    """Somebody who subscribes to a user, and checks what he is told."""

    def __init__(self, engine: Engine, user_id: int) -> None:
        self.engine = engine
        self.user_id = user_id
        self.told: list[StreamEvent | StreamSnapshot] = []
        self.subscription: Subscription | None = None
        self.stream = ""
        self.seq: int | None = None
        self.balances: dict[tuple[str, int], tuple[int, int]] = {}
        self.ends: list[tuple[int, TransferState]] = []
        self.on_snapshot: Callable[[], None] = lambda: None

    def subscribe(self, **resume: Any) -> "Reader":
        self.subscription = self.engine.subscribe(self.user_id, self.take, **resume)
        self.stream = self.subscription.stream_id
        if self.subscription.missed is not None:
            self.seq = resume["after"]
            for event in self.subscription.missed:
                self.take(event)
        return self

    def resume(self, other: "Reader") -> "Reader":
        """Go on where another one stopped."""
        self.balances = dict(other.balances)
        return self.subscribe(stream=other.stream, after=other.seq)

    def leave(self) -> None:
        assert self.subscription is not None
        self.engine.unsubscribe(self.subscription)

    def take(self, message: StreamEvent | StreamSnapshot) -> None:
        self.told.append(message)
        assert message.stream == self.stream
        if isinstance(message, StreamSnapshot):
            assert self.seq is None
            self.on_snapshot()
            self.balances = {(one.account, one.asset_id): (one.available, one.frozen) for one in message.balances}
        else:
            assert self.seq is not None
            assert message.seq == self.seq + 1
            if isinstance(message.what, Balance):
                what = message.what
                self.balances[what.account, what.asset_id] = (what.available, what.frozen)
            elif message.what.state.is_terminal:
                assert message.what.req_id == message.req_id
                self.ends.append((message.req_id.int, message.what.state))
        self.seq = message.seq

    @property
    def transfers(self) -> list[TransferRecord]:
        return [one.what for one in self.told if isinstance(one, StreamEvent) and isinstance(one.what, TransferRecord)]

    @property
    def states(self) -> list[str]:
        return [record.state.value for record in self.transfers]


async def settle(engine: Engine) -> None:
    """Wait until every balance that has changed was read."""
    await until(lambda: engine.statistics().streams.waiting == 0, every_s=0.1)
    await trio.sleep(0.1)


async def wallets_of(world: World, user_id: int) -> dict[tuple[str, int], tuple[int, int]]:
    """Return what the ledger says that a user holds."""
    registry = world.registry(dict(world.cores))
    held = {}
    for wallet in registry.wallets:
        for asset in world.settings.assets:
            account = await world.ledger.account(wallet.account_id(user_id, asset.asset_id))
            if account is not None:
                available = account.credits_posted - account.debits_posted - account.debits_pending
                held[wallet.name, asset.asset_id] = (available, account.debits_pending)
    return held
