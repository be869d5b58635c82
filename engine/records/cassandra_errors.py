"""The driver's errors, translated once: what is unknown, what is set up wrongly, and what the rest of us may know."""

from typing import Final

from cassandra import (
    AlreadyExists,
    AuthenticationFailed,
    ConfigurationException,
    InvalidRequest,
    OperationTimedOut,
    Unauthorized,
)
from cassandra.cluster import NoHostAvailable
from cassandra.protocol import SyntaxException

from transfer_engine.engine.records.protocol import RecordsMisconfigured, RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings

SCHEMA_APPLY: Final = "transfer-engine schema apply"


class BatchTooLarge(RecordsMisconfigured):
    """The server allows only smaller batches than we sent."""


_REFUSALS: Final = (InvalidRequest, SyntaxException, ConfigurationException, AlreadyExists)


def translate(error: BaseException, settings: CassandraSettings) -> Exception:
    """Return what an error of the driver means to the engine.

    A time-out, a lost connection, too few replicas: nobody knows what happened (`RecordsUnavailable`). A request that
    the server can't understand or does not allow will never succeed as things are (`RecordsMisconfigured`).
    """
    if isinstance(error, Unauthorized):
        return RecordsMisconfigured(
            f"cassandra.username {settings.username!r} lacks a permission on keyspace {settings.keyspace}: {error}"
        )
    if isinstance(error, InvalidRequest) and "Batch too large" in str(error):
        return BatchTooLarge("the server's batch_size_fail_threshold is too small for a single transfer: raise it")
    if isinstance(error, _REFUSALS):
        return RecordsMisconfigured(
            f"the server refused a statement on keyspace {settings.keyspace}: {_words(error, settings)}; "
            f"`{SCHEMA_APPLY}` makes what is missing"
        )
    refused = find_authentication_failure(error)
    if refused is not None:
        return refused_credentials(refused, settings)
    if "CERTIFICATE_VERIFY_FAILED" in str(error) and settings.tls is not None:
        return RecordsMisconfigured(
            f"a server's certificate is not signed by cassandra.tls.ca_file {settings.tls.ca_file}, or does not name "
            f"its contact point (cassandra.tls.check_hostname): {_words(error, settings)}"
        )
    return RecordsUnavailable(f"Cassandra at {', '.join(settings.contact_points)}: {_words(error, settings)}")


def find_authentication_failure(error: BaseException) -> AuthenticationFailed | None:
    """Return the refused log-in within an error, if there is one."""
    inner = error.errors.values() if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict) else ()
    for cause in (error, *inner):
        if isinstance(cause, AuthenticationFailed):
            return cause
    return None


def refused_credentials(error: AuthenticationFailed, settings: CassandraSettings) -> RecordsMisconfigured:
    """Return the error that names the settings of a refused log-in."""
    if settings.username is None:
        return RecordsMisconfigured(
            "the server asks for credentials: set cassandra.username and cassandra.password_file"
        )
    return RecordsMisconfigured(
        f"the server refused cassandra.username {settings.username!r} with the password in "
        f"cassandra.password_file {settings.password_file}: {_words(error, settings)}"
    )


def _words(error: BaseException, settings: CassandraSettings) -> str:
    """Return an error in one line."""
    if isinstance(error, NoHostAvailable) and error.errors:
        return "; ".join(f"{getattr(host, 'endpoint', host)}: {cause}" for host, cause in error.errors.items())
    if isinstance(error, OperationTimedOut):
        return f"no answer within timeout_ms ({settings.timeout_ms})"
    return " ".join(str(error).split()) or type(error).__name__
