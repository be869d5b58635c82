"""The commands that talk to a running engine: transfer, show, resolve, balances, credit."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from transfer_engine.http.remote import Remote
from transfer_engine.schema.ids import KEY_LENGTH_MAX
from transfer_engine.schema.money import format_amount
from transfer_engine.schema.transfers import TransferStatus
from transfer_engine.schema.wire import TransferResponse

Command = TypeVar("Command", bound=Callable[..., Any])

_url = click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="The engine to talk to.",
)


def _key(command: Command) -> Command:
    return click.option(
        "--key",
        help=f"Your own name of this, at most {KEY_LENGTH_MAX} characters: given again, nothing moves twice.",
    )(command)


@click.command()
@click.option("--from", "source", required=True, help="The service that holds the money, such as funding.")
@click.option("--to", "target", required=True, help="The service that gets it, such as trading.")
@click.option("--user", "user_id", type=int, required=True, help="The user's number.")
@click.option("--asset", required=True, help="Symbol or number of the asset, such as USDT.")
@click.option("--amount", required=True, help="Such as 100.5, with at most the asset's decimals.")
@_key
@_url
def transfer(source: str, target: str, user_id: int, asset: str, amount: str, key: str | None, url: str) -> None:
    """Move an amount between two accounts of a user."""
    with Remote(url) as remote:
        found = remote.asset(asset)
        body = {
            "from": source,
            "to": target,
            "user_id": user_id,
            "asset_id": found.asset_id,
            "amount": found.minor_units(amount),
        }
        key = key or secrets.token_hex(16)
        _report(remote.submit("/api/v1/transfer", body, key=key), f"{amount} {found.symbol} {source} → {target}")


@click.command()
@click.option("--user", "user_id", type=int, required=True, help="The user's number.")
@click.option("--account", required=True, help="The account that gets the money, such as funding.")
@click.option("--asset", required=True, help="Symbol or number of the asset, such as USDT.")
@click.option("--amount", required=True, help="Such as 100.5, with at most the asset's decimals.")
@_key
@_url
def credit(user_id: int, account: str, asset: str, amount: str, key: str | None, url: str) -> None:
    """Bring money in from outside: a deposit into a user's account."""
    with Remote(url) as remote:
        found = remote.asset(asset)
        body = {
            "user_id": user_id,
            "account": account,
            "asset_id": found.asset_id,
            "amount": found.minor_units(amount),
        }
        key = key or secrets.token_hex(16)
        _report(remote.submit("/api/v1/admin/credits", body, key=key), f"{amount} {found.symbol} → {account}")


@click.command()
@click.argument("req_id")
@_url
def show(req_id: str, url: str) -> None:
    """Show what is known of a transfer."""
    with Remote(url) as remote:
        record = remote.record(req_id)
        asset = remote.asset(str(record.asset_id))
    rows = {
        "req_id": record.req_id,
        "state": record.state,
        "from": record.source,
        "to": record.target,
        "user": record.user_id,
        "amount": f"{format_amount(record.amount, asset.decimals)} {asset.symbol}",
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
@_url
def resolve(req_id: str, action: str | None, yes: bool, url: str) -> None:
    """End a transfer that does not end by itself, and say what was done."""
    if action is None:
        raise click.UsageError("Say how: --post or --void.")
    with Remote(url) as remote:
        record = remote.record(req_id)
        if not yes:
            asset = remote.asset(str(record.asset_id))
            amount = f"{format_amount(record.amount, asset.decimals)} {asset.symbol}"
            click.echo(f"{record.req_id} is {record.state}: {amount} of user {record.user_id},", err=True)
            click.confirm(f"{record.source} → {record.target}. {action.capitalize()} it?", abort=True, err=True)
        report = remote.resolve(req_id, action)
    for step in report.steps:
        click.echo(f"- {step}")
    click.echo(f"{report.req_id} is {report.state}")


@click.command()
@click.option("--user", "user_option", type=int, help="The user's number.")
@click.argument("user_id", type=int, required=False)
@_url
def balances(user_option: int | None, user_id: int | None, url: str) -> None:
    """Show what a user holds, account by account."""
    users = [user for user in (user_option, user_id) if user is not None]
    if len(users) != 1:
        raise click.UsageError("Name one user: --user NUMBER.")
    with Remote(url) as remote:
        assets = {asset.asset_id: asset for asset in remote.assets()}
        entries = remote.balances(users[0])
    if not entries:
        click.echo("no accounts")
        return
    click.echo(f"{'account':<16} {'asset':<8} {'available':>28} {'frozen':>28}")
    for entry in entries:
        asset = assets[entry.asset_id]
        available, frozen = (format_amount(amount, asset.decimals) for amount in (entry.available, entry.frozen))
        click.echo(f"{entry.account:<16} {asset.symbol:<8} {available:>28} {frozen:>28}")


def _report(response: TransferResponse, what: str) -> None:
    """Say what became of it; the exit code is 0 unless it was refused."""
    message = f": {response.message}" if response.message else ""
    if response.status in {TransferStatus.FAILED, TransferStatus.ROLLED_BACK}:
        raise click.ClickException(f"{response.req_id} {response.status}{message}")
    click.echo(f"{response.req_id} {response.status}: {what}{message}")


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).isoformat(timespec="milliseconds")
