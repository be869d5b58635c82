"""Reports as files: what ``--json`` writes and ``bench compare`` reads."""

import sys
from pathlib import Path

import msgspec

from transfer_engine.benchmarks.result import FORMAT, Report


class ReportUnreadable(ValueError):
    """A file is no report, or one of a format that is not known here. The message says which."""


class _Format(msgspec.Struct):
    format: int


def write_json(report: Report, path: Path) -> None:
    """Write a report, indented; to stdout where the path is ``-``.

    Raises:
        OSError: the file can't be written.
    """
    text = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    if str(path) == "-":
        sys.stdout.write(text.decode())
        sys.stdout.flush()
    else:
        path.write_bytes(text)


def read_report(path: Path) -> Report:
    """Read a report that :func:`write_json` wrote.

    Raises:
        ReportUnreadable: there is no such file, it is no report, or its format has another number.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportUnreadable(f"{path}: {error.strerror or error}") from None
    try:
        number = msgspec.json.decode(content, type=_Format).format
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportUnreadable(f"{path} is no report of this suite: {error}") from None
    if number != FORMAT:
        raise ReportUnreadable(f"{path} is a report of format {number}; this version reads format {FORMAT}")
    try:
        return msgspec.json.decode(content, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportUnreadable(f"{path} is a damaged report: {error}") from None
