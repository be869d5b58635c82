"""The server's settings: the engine's and the doors', from a file, the environment and the command line's flags.

A flag beats the environment, the environment beats the file, the file beats the default. What nobody knows is refused
by name, and a wrong value is told with the place that it came from.
"""

import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from transfer_engine.engine.settings import ServiceSettings, Settings
from transfer_engine.http.client_addresses import parse_networks
from transfer_engine.http.configuration_file import ConfigurationError, ConfigurationFile, read_configuration_file
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.refusal_pace import REFUSALS_MOST
from transfer_engine.http.tls_settings import TlsSettings
from transfer_engine.http.token_settings import TokenSettings
from transfer_engine.http.webhook_settings import WebhookSettings
from transfer_engine.http.websocket_settings import WebSocketSettings

ENVIRONMENT_PREFIX: Final = "TRANSFER_ENGINE_"
CONFIG_VARIABLE: Final = "TRANSFER_ENGINE_CONFIG"
"""Names the configuration file where no flag does: no setting of its own."""
_NO_SETTINGS: Final = {CONFIG_VARIABLE, "TRANSFER_ENGINE_TOKEN"}
"""What the command line reads from the environment beside the settings."""

_STRICT_JSON: Final = msgspec.json.Encoder(decimal_format="number")


class ServerSettings(Settings):
    """What a server needs to run, beside its engine."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Where the main door listens: a loopback address or a name of one, as long as nobody has to prove who he is."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8_080
    """The main door's port; 0 takes a free one."""
    express: bool = True
    """Whether the express door is open: the same API by a faster path, HTTP/1.1 only."""
    express_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Its port; None takes the one after ``port`` (a free one where that is 0)."""
    tls: TlsSettings | None = None
    """The main door's certificate; None speaks plain HTTP."""
    tokens: TokenSettings | None = None
    """Who may ask; None serves everybody, and loopback only."""
    rate_limits: RateLimitSettings = RateLimitSettings()
    """How often; off by default."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of load balancers whose ``X-Forwarded-For`` is believed."""
    websocket: WebSocketSettings = WebSocketSettings()
    webhooks: WebhookSettings = WebhookSettings()
    backlog: Annotated[int, Field(ge=1, le=65_535)] = 1_024
    """Connections that may wait to be accepted."""
    body_bytes_most: Annotated[int, Field(ge=1_024, le=16 << 20)] = 64 << 10
    """The largest body of a request, in bytes; a transfer's is about 100."""
    body_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    """How long a client may take to send a request's body."""
    send_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    """How long a client may take to read an answer before it is cut off."""
    connections_most: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Connections at a time, at each door; more are closed at once. About 30 KiB of memory each."""
    refusals_most: Annotated[int, Field(ge=1, le=1_000_000)] = REFUSALS_MOST
    """Requests that are refused as overload in a second, over all connections of websockets and the express door: each
    costs 50 to 150 µs that the others' transfers don't get. Who was refused is read from again when its turn has come,
    after a second at the latest."""
    keep_alive_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 75_000
    """How long an idle connection stays open: longer than the usual load balancer's 60 s, so that it closes first."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto``: for people on a terminal, as JSON lines elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = True
    """Whether every transfer that is asked for has a line in the log."""

    @field_validator("data_dir")
    @classmethod
    def _expand_home(cls, data_dir: Path) -> Path:
        return data_dir.expanduser()

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(proxies)
        return proxies

    @field_validator("services")
    @classmethod
    def _no_embedded_cores(cls, services: tuple[ServiceSettings, ...]) -> tuple[ServiceSettings, ...]:
        for service in services:
            if service.kind == "core":
                raise ValueError(
                    f"{service.name} is of kind core, which only a program that embeds the engine can bring"
                )
        return services


class _Environment(BaseSettings, ServerSettings):
    """How pydantic-settings reads the environment; never validated by itself."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid")


def load_settings(config: Path | None, flags: Mapping[str, Any]) -> ServerSettings:
    """Return the settings that file, environment and flags make together.

    Args:
        config: the YAML file, or None for none.
        flags: what the command line gave, by the settings' names.

    Raises:
        ConfigurationError: a line for each fault, with the place, the key and what it must be.
    """
    file = read_configuration_file(config) if config is not None else None
    if file is not None:
        _check_file(file)
    environment = _read_environment()
    merged = _merge(_merge(file.data if file is not None else {}, environment), flags)
    try:
        return ServerSettings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(_describe(fault, _place(fault["loc"], file, environment, flags)) for fault in error.errors())
        ) from None


def _check_file(file: ConfigurationFile) -> None:
    """Check the file by itself and strictly: YAML has types, so "8080" or yes is no port."""
    try:
        ServerSettings.model_validate_json(_STRICT_JSON.encode(file.data), strict=True)
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(_describe(fault, file.where(fault["loc"])) for fault in error.errors())
        ) from None
    except (TypeError, ValueError, RecursionError) as error:  # a key or value that YAML knows and JSON does not
        raise ConfigurationError(f"{file.path}: a value can't be used: {error}") from None


def _read_environment() -> dict[str, Any]:
    taken_away: dict[str, None] = {}
    for variable, value in os.environ.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or variable.upper() in _NO_SETTINGS:
            continue
        name, *nested = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        field = ServerSettings.model_fields.get(name)
        if field is None or (nested and not _is_section(field.annotation)):
            raise ConfigurationError(f"{variable}: unknown setting{_suggestion(name, ENVIRONMENT_PREFIX)}")
        if value == "null" and not nested and _is_section(field.annotation):
            taken_away[name] = None  # pydantic-settings takes it for a variable that is not there
    try:
        return EnvSettingsSource(_Environment)() | taken_away
    except SettingsError as error:
        field_name = str(error).partition('"')[2].partition('"')[0]
        raise ConfigurationError(f"{ENVIRONMENT_PREFIX}{field_name.upper()}: the value must be JSON") from None


def _is_section(annotation: object) -> bool:
    """Whether a setting is a section of settings, or none."""
    kinds = typing.get_args(annotation) or (annotation,)
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _place(
    location: Sequence[int | str],
    file: ConfigurationFile | None,
    environment: Mapping[str, Any],
    flags: Mapping[str, Any],
) -> str:
    name = str(location[0]) if location else ""
    if name in flags:
        return f"--{name.replace('_', '-')}"
    if name in environment:
        return f"{ENVIRONMENT_PREFIX}{name.upper()}"
    return file.where(location) if file is not None else "settings"


def _describe(fault: ErrorDetails, place: str) -> str:
    location = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key {location}{_suggestion(location) if len(fault['loc']) == 1 else ''}"
    if fault["type"] == "missing":
        return f"{place}: {location} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if not location:
        return f"{place}: {message}"
    given = repr(fault["input"])
    shown = given if len(given) <= 60 else f"{given[:60]}…"
    return f"{place}: {location} is {shown}: {message[:1].lower()}{message[1:]}"


def _suggestion(name: str, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, ServerSettings.model_fields, n=1)
    known = [close[0]] if close else sorted(ServerSettings.model_fields)
    names = ", ".join(prefix + key.upper() if prefix else key for key in known)
    return f": did you mean {names}?" if close else f": the settings are {names}"
