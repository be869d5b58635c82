"""The commands that talk to a running engine: transfer, show, resolve, balances, history, limits, credit."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from transfer_engine.http.remote import Remote, find_asset, minor_units, remote_options, shown
from transfer_engine.schema.ids import KEY_LENGTH_MAX
from transfer_engine.schema.transfers import TransferStatus

if TYPE_CHECKING:
    from transfer_engine.http.client import (
        AssetInfo,
        Balance,
        Client,
        InternalTransfer,
        Limits,
        Outcome,
        Record,
        Resolution,
    )

Command = TypeVar("Command", bound=Callable[..., Any])

_RESOLVE_PATIENCE_S = 15.0
"""How long an operator's decision waits until the engine lets go of the transfer: longer than a core's time-out."""

_HISTORY_MOST = 1_000


def _key(command: Command) -> Command:
    return click.option(
        "--key",
        help=f"Your own name of this, at most {KEY_LENGTH_MAX} characters: given again, nothing moves twice.",
    )(command)


@click.command()
@click.option("--from", "source", required=True, help="The service that holds the money, such as funding.")
@click.option("--to", "target", required=True, help="The service that gets it, such as trading.")
@click.option("--user", "user_id", type=int, required=True, help="The user's number.")
@click.option("--asset", "symbol", required=True, help="Symbol or number of the asset, such as USDT.")
@click.option("--amount", required=True, help="Such as 100.5, with at most the asset's decimals.")
@_key
@remote_options
def transfer(source: str, target: str, user_id: int, symbol: str, amount: str, key: str | None, remote: Remote) -> None:
    """Move an amount between two accounts of a user."""

    async def ask(client: "Client") -> "tuple[Outcome, AssetInfo]":
        asset = await find_asset(client, symbol)
        outcome = await client.transfer(
            source=source,
            target=target,
            user_id=user_id,
            asset_id=asset.asset_id,
            amount=minor_units(amount, asset),
            key=key,
        )
        return outcome, asset

    outcome, asset = remote.run(ask)
    _report(outcome, f"{amount} {asset.symbol} {source} → {target}")


@click.command()
@click.option("--user", "user_id", type=int, required=True, help="The user's number.")
@click.option("--account", required=True, help="The account that gets the money, such as funding.")
@click.option("--asset", "symbol", required=True, help="Symbol or number of the asset, such as USDT.")
@click.option("--amount", required=True, help="Such as 100.5, with at most the asset's decimals.")
@_key
@remote_options
def credit(user_id: int, account: str, symbol: str, amount: str, key: str | None, remote: Remote) -> None:
    """Bring money in from outside: a deposit into a user's account."""

    async def ask(client: "Client") -> "tuple[Outcome, AssetInfo]":
        asset = await find_asset(client, symbol)
        outcome = await client.credit(
            user_id=user_id,
            account=account,
            asset_id=asset.asset_id,
            amount=minor_units(amount, asset),
            key=key,
        )
        return outcome, asset

    outcome, asset = remote.run(ask)
    _report(outcome, f"{amount} {asset.symbol} → {account}")


@click.command()
@click.argument("req_id")
@remote_options
def show(req_id: str, remote: Remote) -> None:
    """Show what is known of a transfer."""

    async def ask(client: "Client") -> "tuple[Record, AssetInfo]":
        record = await client.get(req_id)
        return record, await find_asset(client, str(record.asset_id))

    record, asset = remote.run(ask)
    rows = {
        "req_id": record.req_id,
        "state": record.state,
        "from": record.source,
        "to": record.target,
        "user": record.user_id,
        "amount": f"{shown(record.amount, asset)} {asset.symbol}",
        "created": _time(record.created_at),
        "updated": _time(record.updated_at),
        "retries": record.retry_count,
        "error": record.error or "-",
    }
    for name, value in rows.items():
        click.echo(f"{name:<8} {value}")


@click.command()
@click.argument("req_id")
@click.option("--post", "action", flag_value="post", help="Ask everybody again, and post if all agree.")
@click.option("--void", "action", flag_value="void", help="Fence the target, then give the source its amount back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote_options
def resolve(req_id: str, action: str | None, yes: bool, remote: Remote) -> None:
    """End a transfer that does not end by itself, and say what was done."""
    if action not in {"post", "void"}:
        raise click.UsageError("Say how: --post or --void.")

    async def look(client: "Client") -> "tuple[Record, AssetInfo]":
        record = await client.get(req_id)
        return record, await find_asset(client, str(record.asset_id))

    async def decide(client: "Client") -> "Resolution":
        return await client.resolve(req_id, "post" if action == "post" else "void", deadline_s=_RESOLVE_PATIENCE_S)

    record, asset = remote.run(look)
    if not yes:
        amount = f"{shown(record.amount, asset)} {asset.symbol}"
        click.echo(f"{record.req_id} is {record.state}: {amount} of user {record.user_id},", err=True)
        click.confirm(f"{record.source} → {record.target}. {action.capitalize()} it?", abort=True, err=True)
    resolution = remote.run(decide)
    for step in resolution.steps:
        click.echo(f"- {step}")
    click.echo(f"{resolution.req_id} is {resolution.state}")


@click.command()
@click.option("--user", "user_option", type=int, help="The user's number.")
@click.argument("user_id", type=int, required=False)
@remote_options
def balances(user_option: int | None, user_id: int | None, remote: Remote) -> None:
    """Show what a user holds, account by account."""
    users = [user for user in (user_option, user_id) if user is not None]
    if len(users) != 1:
        raise click.UsageError("Name one user: --user NUMBER.")

    async def ask(client: "Client") -> "tuple[list[Balance], list[AssetInfo]]":
        return await client.balances(users[0]), await client.assets()

    entries, known = remote.run(ask)
    assets = {asset.asset_id: asset for asset in known}
    if not entries:
        click.echo("no accounts")
        return
    click.echo(f"{'account':<16} {'asset':<8} {'available':>28} {'frozen':>28}")
    for entry in entries:
        asset = assets[entry.asset_id]
        available, frozen = (shown(amount, asset) for amount in (entry.available, entry.frozen))
        click.echo(f"{entry.account:<16} {asset.symbol:<8} {available:>28} {frozen:>28}")


@click.command()
@click.option("--user", "user_id", type=int, help="The user's number.  [the token's own]")
@click.option("--asset", help="Only this symbol, such as USDT.")
@click.option(
    "--limit", type=click.IntRange(1, _HISTORY_MOST), default=20, show_default=True, help="Show so many at most."
)
@remote_options
def history(user_id: int | None, asset: str | None, limit: int, remote: Remote) -> None:
    """Show a user's transfers of the last 7 days, newest first."""

    async def ask(client: "Client") -> "list[InternalTransfer]":
        listed: list[InternalTransfer] = []
        async for each in client.history(user_id=user_id, asset=asset, page=min(limit, 100)):
            listed.append(each)
            if len(listed) == limit:
                break
        return listed

    listed = remote.run(ask)
    if not listed:
        click.echo("no transfers")
    for each in listed:
        created = _time(each.created_at) if each.created_at is not None else "-"
        accounts = f"{each.from_account.account_type} → {each.to_account.account_type}"
        click.echo(f"{each.req_id} {created} {each.state:<15} {each.amount:>20} {each.from_account.asset} {accounts}")


@click.command()
@click.option("--user", "user_id", type=int, help="The user's number.  [the token's own]")
@remote_options
def limits(user_id: int | None, remote: Remote) -> None:
    """Show what a user may move of each asset, now."""

    async def ask(client: "Client") -> "Limits":
        return await client.limits(user_id)

    told = remote.run(ask)
    click.echo(f"{'asset':<8} {'minimum':>28} {'maximum':>28} {'left today':>28}")
    for each in told.limits:
        left = each.daily_left if each.daily_left is not None else "-"
        note = "" if each.enabled else "  disabled"
        click.echo(f"{each.asset:<8} {each.minimum:>28} {each.maximum:>28} {left:>28}{note}")
    if told.rate_limit is not None:
        click.echo(f"requests: {told.rate_limit.left} of {told.rate_limit.per_minute} a minute are left")


def _report(outcome: "Outcome", what: str) -> None:
    """Say what became of it; the exit code is 0 unless it was refused."""
    message = f": {outcome.message}" if outcome.message else ""
    if outcome.status in {TransferStatus.FAILED, TransferStatus.ROLLED_BACK}:
        raise click.ClickException(f"{outcome.req_id} {outcome.status}{message}")
    click.echo(f"{outcome.req_id} {outcome.status}: {what}{message}")


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).isoformat(timespec="milliseconds")
