"""The driver's connection to a cluster, built from our settings: policies, log-in, encryption. Blocking calls only."""

import logging
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cassandra import DriverException, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    DefaultConnection,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    HostStateListener,
    NoSpeculativeExecutionPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.pool import Host
from cassandra.query import tuple_factory

from transfer_engine.engine.records.cassandra_errors import translate
from transfer_engine.engine.records.cassandra_messages import PROTOCOL_VERSION, WRITE_CONSISTENCY
from transfer_engine.engine.records.protocol import RecordsMisconfigured, RecordsUnavailable
from transfer_engine.engine.settings import CassandraSettings, TlsSettings

DEFAULT_PORT: Final = 9042

RECONNECT_LEAST_S: Final = 0.1
RECONNECT_MOST_S: Final = 5.0
"""A host that is down is tried again after ever longer pauses, between these."""

HEARTBEAT_S: Final = 5.0
"""An idle connection is asked so often whether it lives, and given up after as long without an answer."""

SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)
"""The driver sets none: without TCP_NODELAY batches wait 40 ms for a delayed acknowledgement."""

_log: Final = logging.getLogger("transfer_engine.engine.records")

# A batch over the server's warning threshold makes it send a warning, and the driver logs each one: 30 us a batch.
logging.getLogger("cassandra.protocol").setLevel(logging.ERROR)
# A cluster that is absent is one line of ours, not a traceback of the driver's for every attempt.
logging.getLogger("cassandra.cluster").setLevel(logging.CRITICAL)
for _name in ("cassandra.connection", "cassandra.pool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class QueueingConnection(DefaultConnection):  # type: ignore[misc]  # the driver has no types
    """A connection that queues what the socket does not take at once.

    The driver's own refuses every request while the socket's buffer is full, and leaks the refused request's stream.
    What is queued is bounded by our own bound of statements in flight.
    """

    @property
    def _socket_writable(self) -> bool:
        return True

    @_socket_writable.setter
    def _socket_writable(self, is_writable: bool) -> None:
        pass


class NeverRetry(RetryPolicy):  # type: ignore[misc]
    """Whatever went wrong is told at once: the engine writes again by itself, and knows what it repeats."""

    def on_read_timeout(self, *_args: object, **_details: object) -> tuple[Any, None]:
        """Too few replicas answered a read."""
        return self.RETHROW, None

    def on_write_timeout(self, *_args: object, **_details: object) -> tuple[Any, None]:
        """Too few replicas acknowledged a write: it may have landed."""
        return self.RETHROW, None

    def on_unavailable(self, *_args: object, **_details: object) -> tuple[Any, None]:
        """Too few replicas were up: nothing was attempted."""
        return self.RETHROW, None

    def on_request_error(self, *_args: object, **_details: object) -> tuple[Any, None]:
        """The coordinator failed, or the connection was lost: anything may have happened."""
        return self.RETHROW, None


NEVER_RETRY: Final = NeverRetry()


class NodeLog(HostStateListener):  # type: ignore[misc]
    """Tells the log which nodes come and go: what the driver itself would say of it is switched off above."""

    def on_up(self, host: Host) -> None:
        """A node answers again."""
        _log.info("Cassandra node %s is up", host.endpoint)

    def on_down(self, host: Host) -> None:
        """A node does not answer; the others are asked, and it is tried again by and by."""
        _log.warning("Cassandra node %s is down", host.endpoint)

    def on_add(self, host: Host) -> None:
        """The cluster has grown."""
        _log.info("Cassandra node %s was added", host.endpoint)

    def on_remove(self, host: Host) -> None:
        """The cluster has shrunk."""
        _log.warning("Cassandra node %s was removed", host.endpoint)


def parse_contact_point(contact_point: str) -> tuple[str, int]:
    """Split ``host``, ``host:port``, ``[address]`` or ``[address]:port``.

    Raises:
        RecordsMisconfigured: the port is none.
    """
    host, separator, port = contact_point.rpartition(":")
    if not separator or contact_point.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = contact_point, str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 65_536 or not host:
        raise RecordsMisconfigured(f"cassandra.contact_points: {contact_point!r} must be host or host:port")
    return host.strip("[]"), int(port)


def _read_password(settings: CassandraSettings) -> str:
    path = settings.password_file
    if path is None:
        raise RecordsMisconfigured("cassandra.password_file is missing: it is needed with cassandra.username")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordsMisconfigured(f"cassandra.password_file {path} can't be read: {error}") from None


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context that connections are encrypted with.

    Raises:
        RecordsMisconfigured: a file can't be read, or is no PEM; the message names the setting.
    """
    name, path = "ca_file", settings.ca_file
    try:
        context = ssl.create_default_context(cafile=str(path))
        context.check_hostname = settings.check_hostname
        if settings.certificate_file is not None:
            name, path = "certificate_file", settings.certificate_file
            context.load_cert_chain(path, settings.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise RecordsMisconfigured(f"cassandra.tls.{name} {path} can't be used: {error}") from None
    return context


def build_cluster(settings: CassandraSettings, contact_points: list[tuple[str, int]]) -> Cluster:
    """Return a cluster that is not connected yet.

    Raises:
        RecordsMisconfigured: a file that the settings name can't be used.
        UnresolvableContactPoints: no contact point's name can be resolved.
    """
    balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=settings.local_data_centre or ""))
    connect_timeout_s = settings.connect_timeout_ms / 1000
    profile = ExecutionProfile(
        load_balancing_policy=balancing,
        retry_policy=NEVER_RETRY,
        consistency_level=WRITE_CONSISTENCY[settings.consistency],
        request_timeout=connect_timeout_s,
        row_factory=tuple_factory,
        speculative_execution_policy=NoSpeculativeExecutionPolicy(),
    )
    credentials = None
    if settings.username is not None:
        credentials = PlainTextAuthProvider(settings.username, _read_password(settings))
    encryption: dict[str, Any] = {}
    if settings.tls is not None:
        encryption["ssl_context"] = tls_context(settings.tls)
    return Cluster(
        contact_points=contact_points,
        port=contact_points[0][1],
        auth_provider=credentials,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(RECONNECT_LEAST_S, RECONNECT_MOST_S),
        connection_class=QueueingConnection,
        protocol_version=PROTOCOL_VERSION,
        compression=False,
        metrics_enabled=False,
        sockopts=list(SOCKET_OPTIONS),
        connect_timeout=connect_timeout_s,
        control_connection_timeout=connect_timeout_s,
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=HEARTBEAT_S,
        schema_metadata_enabled=False,
        monitor_reporting_enabled=False,
        application_name="transfer-engine",
        **encryption,
    )


def connect(settings: CassandraSettings) -> Session:
    """Connect; blocks for ``connect_timeout_ms`` a contact point at most. ``session.cluster`` is to be shut down.

    Raises:
        RecordsUnavailable: no contact point answers.
        RecordsMisconfigured: the server refuses us, or a setting can't be used.
    """
    cluster = None
    try:
        cluster = build_cluster(settings, [parse_contact_point(point) for point in settings.contact_points])
        session = cluster.connect()
        cluster.register_listener(NodeLog())
    except UnresolvableContactPoints:
        raise RecordsUnavailable(
            f"Cassandra: cassandra.contact_points {', '.join(settings.contact_points)} can't be resolved"
        ) from None
    except (DriverException, NoHostAvailable, OSError) as error:
        misplaced = None if cluster is None else _misplaced(cluster, settings)
        if cluster is not None:
            cluster.shutdown()
        raise misplaced or translate(error, settings) from None
    if "libev" not in DefaultConnection.__module__:
        _log.warning("cassandra-driver has no libev here: %s is slower", DefaultConnection.__name__)
    return session


def _misplaced(cluster: Cluster, settings: CassandraSettings) -> RecordsMisconfigured | None:
    known = {host.datacenter for host in cluster.metadata.all_hosts() if host.datacenter}
    if settings.local_data_centre is None or not known or settings.local_data_centre in known:
        return None
    return RecordsMisconfigured(
        f"cassandra.local_data_centre is {settings.local_data_centre!r}: the cluster has {', '.join(sorted(known))}"
    )


def learn_replicas(session: Session, keyspace: str) -> None:
    """Let the driver know which nodes hold what of a keyspace, so that a statement goes straight to one; blocks.

    It reads nothing else of the schema: a cluster may have thousands of tables. Without this knowledge, or with that of
    a former replication, statements take one hop more.
    """
    with suppress(DriverException):
        session.cluster.refresh_keyspace_metadata(keyspace)


def shut_down(session: Session) -> None:
    """Close all connections; blocks for as long as a connection is just being made, at most ``connect_timeout_ms``."""
    session.cluster.shutdown()
