"""Whatever looks like a token or a password is taken out of a report before anybody sees it."""

import re
from typing import Any, Final

import msgspec

from transfer_engine.benchmarks.result import Report

HIDDEN: Final = "[hidden]"

_NAMES: Final = r"[\w-]*(?:token|secret|password|passwd|api[-_]?key|credential)s?"
_VALUE: Final = r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s&\"',;})]+)"

_SECRETS: Final = (
    # An option whose name says so, and the word behind it; a variable or a parameter of a URL, and its value.
    re.compile(rf"(?P<name>--{_NAMES}\s+(?!-)){_VALUE}", re.IGNORECASE),
    re.compile(rf"(?P<name>{_NAMES}[\"']?\s*[=:]\s*){_VALUE}", re.IGNORECASE),
    re.compile(r"(?P<name>\b(?:bearer|authorization:?\s+basic)\s+)(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE),
    # A signed token, wherever it is.
    re.compile(r"(?P<name>\b)(?P<value>ey[\w-]{8,}\.[\w-]+\.[\w-]*)"),
    # The user's part of an address.
    re.compile(r"(?P<name>\w://)(?P<value>[^/\s@]+)(?=@)"),
)


def redacted(text: str) -> str:
    """Return a text with every value that looks like a token or a password replaced."""
    for secret in _SECRETS:
        text = secret.sub(lambda match: f"{match['name']}{HIDDEN}", text)
    return text


def without_secrets(report: Report) -> Report:
    """Return a report whose every text went through :func:`redacted`."""
    return msgspec.convert(_walked(msgspec.to_builtins(report)), Report)


def _walked(value: Any) -> Any:
    match value:
        case str():
            return redacted(value)
        case dict():
            return {redacted(str(key)): _walked(part) for key, part in value.items()}
        case list() | tuple():
            return [_walked(part) for part in value]
        case _:
            return value
