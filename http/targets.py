"""From a request's target to the path that its handler is found by: the same on every door."""

from urllib.parse import unquote, urlsplit


def split_target(target: bytes) -> tuple[str, bytes]:
    """Return the path of a request's target, percent-decoded, and its raw query.

    Raises:
        UnicodeDecodeError: the target is not ASCII.
    """
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    if "%" in path:
        path = unquote(path)
    return origin_path(path), query


def origin_path(path: str) -> str:
    """Return the path by itself, where the target was in absolute form, as through a proxy."""
    if path[:1] == "/":
        return path
    try:
        return urlsplit(path).path
    except ValueError:  # a host in brackets that is no address
        return ""
