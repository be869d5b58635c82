"""What the Cassandra of tests and benchmarks is told: its settings, its log, and what Java has to open for it."""

from typing import Final, Literal

CommitLogSync = Literal["batch", "periodic"]

# A write is answered when it is synced, so that it outlives kill -9: of a log that is synced from time to time what was
# written since its last marker (each 100 ms) can't be read back, although the kernel has it. A server's own default is
# "periodic": that is what to measure, and what three replicas make harmless.
# Memtables outside the heap, and few new objects at a time: a small heap's pauses are a third as long.
CONFIGURATION: Final = """cluster_name: tests
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{storage_port}"}}]
listen_address: 127.0.0.1
storage_port: {storage_port}
start_native_transport: true
rpc_address: 127.0.0.1
native_transport_port: {port}
authenticator: {authenticator}
auto_bootstrap: false
auto_snapshot: false
{commitlog_sync}
memtable_allocation_type: offheap_objects
commitlog_disk_access_mode: mmap
commitlog_segment_size: 32MiB
commitlog_total_space: 512MiB
concurrent_writes: 32
read_request_timeout: 20s
range_request_timeout: 20s
write_request_timeout: 20s
cas_contention_timeout: 20s
truncate_request_timeout: 60s
file_cache_size: 32MiB
hinted_handoff_enabled: false
data_file_directories: [{folder}/data]
commitlog_directory: {folder}/commitlog
saved_caches_directory: {folder}/saved_caches
hints_directory: {folder}/hints
cdc_raw_directory: {folder}/cdc_raw
"""

COMMIT_LOGS: Final[dict[CommitLogSync, str]] = {
    "batch": "commitlog_sync: batch",
    "periodic": "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms",
}

LOGGING: Final = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%level %date{ISO8601} %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""

EXPORTED: Final = (
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
)
OPENED: Final = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.math",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
)
