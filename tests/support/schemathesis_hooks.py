"""What Schemathesis does not know by itself; it imports this where ``SCHEMATHESIS_HOOKS`` names it."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """Send what stands for JSON Lines in the document as it is: text."""
    return str(value).encode()
