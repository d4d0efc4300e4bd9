"""Metrics: what a server measures, in the text format of Prometheus.

    databases, calls, connections, RocksDB ─▶ Metrics.collect ─▶ prometheus_client ─▶ GET /metrics

Nothing is computed between two scrapes: writers and calls only count (store/measures.py, activity.py). A
scrape reads the counters, and the sizes of files. METRICS has every name; docs/metrics.md has its table.

Invariants
  (1) the number of series is bounded: tables, indexes and consumers beyond a maximum are summed or left out;
  (2) one scrape runs at a time, and one that is younger than a second is served again (endpoint.py);
  (3) a database that cannot be read does not hide the others: `everlog_database_up` is 0;
  (4) no label has a value of a row.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from everlog.audit import manifest as manifests
from everlog.audit.place import place
from everlog.migrations.proposal import ProposalState, proposals
from everlog.migrations.status import State, logged_migrations, status
from everlog.rpc import security
from everlog.rpc.server.activity import DENIED, ENDLESS, Activity
from everlog.rpc.server.health import Readiness
from everlog.store import VERSION
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError
from everlog.store.measures import Histogram
from everlog.store.online.backfill import built_rows, prepared, total_rows
from everlog.store.upkeep.sizes import sizes_of

TABLES_MAX, INDEXES_MAX, CONSUMERS_MAX = 100, 200, 100
OTHER = "(other)"  # the label of the tables beyond the maximum
BACKUPS_EVERY_S = 60.0


class Metric(NamedTuple):
    """One metric: its name, its type (counter, gauge, histogram), what it means, and its labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


_ROCKSDB = {  # metric, property, help
    "memtable_bytes": ("cur-size-all-mem-tables", "Bytes in memory that are not in files yet."),
    "sst_bytes": ("live-sst-files-size", "Bytes of the live files."),
    "level0_files": ("num-files-at-level0", "Files that wait to be merged into the next level."),
    "compaction_pending_bytes": ("estimate-pending-compaction-bytes", "Estimate of the bytes to be merged."),
    "compactions_running": ("num-running-compactions", "Merges of files that run."),
    "flushes_running": ("num-running-flushes", "Writes of memory to files that run."),
    "table_readers_bytes": ("estimate-table-readers-mem", "Memory for indexes and filters of open files."),
    "write_stopped": ("is-write-stopped", "1 while RocksDB stops writes until it has merged files."),
    "write_rate_limit_bytes_per_second": ("actual-delayed-write-rate", "Limit of delayed writes; 0: none."),
    "block_cache_bytes": ("block-cache-usage", "Bytes in the block cache, which all families share."),
    "block_cache_capacity_bytes": ("block-cache-capacity", "Size of the block cache."),
    "snapshots": ("num-snapshots", "Open snapshots: they keep overwritten data on disk."),
}
_FAMILY = ("database", "family")

METRICS = (
    Metric("everlog_build_info", "gauge", "Version of everlog; always 1.", ("version",)),
    Metric("everlog_database_up", "gauge", "1: the last scrape could read the database.", ("database",)),
    Metric("everlog_database_ready", "gauge", "1 while the database takes reads and writes.", ("database",)),
    # commits
    Metric("everlog_commits_total", "counter", "Records committed since the start.", ("database",)),
    Metric(
        "everlog_commit_seconds",
        "histogram",
        "Time of a commit, from the call to its result, with the wait for its group. Of commits with"
        " durability os a sample.",
        ("database",),
    ),
    Metric(
        "everlog_commit_group_size",
        "histogram",
        "Commits that were written together. Of commits with durability os a sample.",
        ("database",),
    ),
    Metric(
        "everlog_commits_refused_total",
        "counter",
        "Commits that were refused, by the class of the error.",
        ("database", "error"),
    ),
    Metric("everlog_commits_waiting", "gauge", "Commits that wait for their turn.", ("database",)),
    Metric("everlog_sync_seconds", "histogram", "Time that the disk took for a sync.", ("database",)),
    Metric("everlog_writes_refused", "gauge", "1 while the disk refuses writes.", ("database",)),
    Metric(
        "everlog_writes_refused_since_timestamp_seconds",
        "gauge",
        "Time from which the disk refuses writes; no value while it does not.",
        ("database",),
    ),
    # the log, and disk space
    Metric("everlog_log_head_seq", "gauge", "Seq of the newest record on disk.", ("database",)),
    Metric("everlog_log_oldest_seq", "gauge", "Seq of the oldest readable record.", ("database",)),
    Metric("everlog_log_head_timestamp_seconds", "gauge", "Time of the newest record.", ("database",)),
    Metric("everlog_log_bytes", "gauge", "Size of the log, on disk and in memory.", ("database",)),
    Metric("everlog_disk_bytes", "gauge", "Size of all files of the database.", ("database",)),
    Metric("everlog_disk_free_bytes", "gauge", "Free space of its file system.", ("database",)),
    Metric("everlog_table_rows", "gauge", "Rows of a table.", ("database", "table")),
    Metric("everlog_table_bytes", "gauge", "Estimate of a table's size in files.", ("database", "table")),
    Metric(
        "everlog_index_bytes",
        "gauge",
        "Estimate of an index's size in files.",
        ("database", "table", "index"),
    ),
    Metric(
        "everlog_clock_ahead_seconds",
        "gauge",
        "Seconds by which the newest record is ahead of the machine's clock.",
        ("database",),
    ),
    # followers
    Metric("everlog_subscribers", "gauge", "Running subscriptions to the feed.", ("database",)),
    Metric("everlog_consumers", "gauge", "Registered consumers.", ("database",)),
    Metric(
        "everlog_consumer_lag_records",
        "gauge",
        "Records that a consumer has not confirmed.",
        ("database", "consumer"),
    ),
    Metric(
        "everlog_consumer_lag_bytes",
        "gauge",
        "Estimate of the size of these records.",
        ("database", "consumer"),
    ),
    Metric(
        "everlog_consumer_lag_seconds",
        "gauge",
        "Time for which the oldest of these records has waited.",
        ("database", "consumer"),
    ),
    Metric(
        "everlog_consumer_over_cap",
        "gauge",
        "1: the consumer exceeds its cap, and nothing is held for it.",
        ("database", "consumer"),
    ),
    # calls
    Metric("everlog_connections", "gauge", "Open connections."),
    Metric("everlog_connections_max", "gauge", "Greatest number of connections."),
    Metric("everlog_calls_running", "gauge", "Running calls.", ("method",)),
    Metric("everlog_calls_total", "counter", "Calls that have ended, by gRPC status.", ("method", "status")),
    Metric(
        "everlog_call_seconds",
        "histogram",
        "Time of a call, from its headers to its status; not of subscriptions and watches.",
        ("method",),
    ),
    Metric(
        "everlog_calls_denied_total",
        "counter",
        "Calls denied for their token or their rights; also what the console denied, with the methods"
        " console/sign-in, console/form and console/host.",
        ("method",),
    ),
    Metric(
        "everlog_connections_dropped_total",
        "counter",
        "Connections dropped because the peer broke the protocol or its limits, by HTTP/2's error code.",
        ("reason",),
    ),
    Metric(
        "everlog_limits_hit_total",
        "counter",
        "How often a limit was reached: connections, streams, calls, bytes_in, bytes_out, rows, queue,"
        " leases, consumers, http; and those of the console: console_sign_in, console_forms,"
        " console_form_bytes, console_files, console_upload_bytes, console_jobs, console_streams,"
        " console_connections.",
        ("limit",),
    ),
    # migrations, archive, certificates
    Metric("everlog_migrations", "gauge", "Migrations by state.", ("database", "state")),
    Metric("everlog_migration_rows_done", "gauge", "Rows built by the migration in progress.", ("database",)),
    Metric("everlog_migration_rows", "gauge", "Rows that it has to build.", ("database",)),
    Metric(
        "everlog_migrations_waiting",
        "gauge",
        "Migrations that are built and wait for a decision from outside.",
        ("database",),
    ),
    Metric("everlog_proposals_waiting", "gauge", "Proposals that wait for a decision.", ("database",)),
    Metric(
        "everlog_archive_last_timestamp_seconds",
        "gauge",
        "Time of the last archiving; no value if there was none.",
        ("database",),
    ),
    Metric("everlog_archived_records", "gauge", "Records that only the archive has.", ("database",)),
    Metric(
        "everlog_archive_failing_since_timestamp_seconds",
        "gauge",
        "Time from which archiving fails; no value while it does not.",
        ("database",),
    ),
    Metric(
        "everlog_backup_readable", "gauge", "1: the backup named by --backup-at can be read.", ("database",)
    ),
    Metric(
        "everlog_backup_last_timestamp_seconds",
        "gauge",
        "Time of the newest record in that backup.",
        ("database",),
    ),
    Metric("everlog_backup_lag_records", "gauge", "Records that it does not have.", ("database",)),
    Metric(
        "everlog_certificate_expires_timestamp_seconds",
        "gauge",
        "Time at which a certificate of the server ends.",
        ("file", "subject"),
    ),
    # RocksDB
    *(Metric(f"everlog_rocksdb_{name}", "gauge", text, _FAMILY) for name, (_, text) in _ROCKSDB.items()),
    Metric("everlog_rocksdb_stalls_total", "counter", "Writes that RocksDB delayed or stopped.", _FAMILY),
    Metric(
        "everlog_rocksdb_background_errors_total",
        "counter",
        "Errors of RocksDB's threads since the opening.",
        _FAMILY,
    ),
    Metric("everlog_scrape_seconds", "gauge", "Time that this scrape took."),
)

Labels = tuple[str, ...]


class Served(Protocol):
    """The parts of a server that are measured."""

    activity: Activity
    readiness: Readiness

    @property
    def databases(self) -> Mapping[str, Database]: ...

    @property
    def sources(self) -> Mapping[str, str]:
        """The packages of migrations, by database."""

    @property
    def subscribers(self) -> Mapping[str, int]: ...

    @property
    def connected(self) -> tuple[int, int]:
        """The number of open connections, and their maximum."""

    @property
    def tls_files(self) -> security.Tls | None: ...


class Metrics:
    """Collects the metrics of a server: a `Collector` of prometheus_client.

    Its databases count their commits from now on. `backups`: where the backup of a database is, by its name.
    """

    def __init__(self, server: Served, backups: Mapping[str, str] | None = None) -> None:
        self._server = server
        self._backups = dict(backups or {})
        self._backup_heads: dict[str, manifests.Position | None] = {}  # None: not readable
        self._backups_at = -BACKUPS_EVERY_S
        for db in server.databases.values():
            db.measure()

    def collect(self) -> Iterator[Any]:
        """Yield every metric with its values. Read-only."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        values = self._values()
        for one in METRICS:
            family: Any = families[one.kind](one.name, one.help, labels=one.labels)
            for labels, value in values.get(one.name, {}).items():
                if isinstance(value, Histogram):
                    family.add_metric(labels, buckets=_cumulative(value), sum_value=value.sum)
                else:
                    family.add_metric(labels, value)
            yield family

    def _values(self) -> dict[str, dict[Labels, Any]]:
        began = time.perf_counter()
        found: dict[str, dict[Labels, Any]] = {}

        def put(name: str, value: Any, *labels: str) -> None:
            found.setdefault(f"everlog_{name}", {})[labels] = value

        put("build_info", 1, VERSION)
        self._read_backups()
        for name, db in self._server.databases.items():
            try:
                self._database(name, db, put)
                put("database_up", 1, name)
            except (Error, OSError):
                put("database_up", 0, name)
            put("database_ready", int(self._server.readiness.of(name).ready), name)
        self._calls(put)
        self._certificates(put)
        put("scrape_seconds", time.perf_counter() - began)
        return found

    def _database(self, name: str, db: Database, put: Put) -> None:
        log, measures, refusal = db.log, db.measure(), db.engine.refusal
        since_ns = refusal.since_ns
        put("writes_refused", int(bool(since_ns)), name)
        if since_ns:
            put("writes_refused_since_timestamp_seconds", since_ns / 1e9, name)
        put("commits_total", log.head - measures.since, name)
        put("commit_seconds", measures.latency, name)
        put("commit_group_size", measures.groups, name)
        put("sync_seconds", measures.syncs, name)
        for kind, count in measures.errors.copy().items():
            put("commits_refused_total", count, name, kind)
        put("commits_waiting", db.committer.waiting, name)
        put("subscribers", self._server.subscribers.get(name, 0), name)
        put("log_head_seq", log.head, name)
        put("log_oldest_seq", log.oldest, name)
        head_ns = log.commit(log.head).time_ns
        put("log_head_timestamp_seconds", head_ns / 1e9, name)
        put("clock_ahead_seconds", max(0.0, (head_ns - db.clock.read()) / 1e9), name)
        put("log_bytes", db.engine.log_bytes(), name)
        put("disk_bytes", db.engine.disk_bytes(), name)
        put("disk_free_bytes", shutil.disk_usage(db.path).free, name)
        _tables(name, db, put)
        _consumers(name, db, put)
        self._migrations(name, db, put)
        _archive(name, db, put)
        self._backup(name, db, put)
        for family, properties in db.engine.properties().items():
            for metric, (what, _) in _ROCKSDB.items():
                put(f"rocksdb_{metric}", properties[what], name, family)
            put("rocksdb_stalls_total", properties["stalls"], name, family)
            put("rocksdb_background_errors_total", properties["background-errors"], name, family)

    def _migrations(self, name: str, db: Database, put: Put) -> None:
        source = self._server.sources.get(name)
        if source is not None:
            states = Counter(str(info.state) for info in status(db, source))
        else:  # without folders nothing is pending or edited
            logged = logged_migrations(db.migration_records()).values()
            states = Counter(str(State.APPLIED if one.finished else State.BUILDING) for one in logged)
        for state in State:
            put("migrations", states[str(state)], name, str(state))
        waiting = [one for one in proposals(db) if one.state is ProposalState.WAITING]
        put("proposals_waiting", len(waiting), name)
        total = total_rows(db.tables)
        done = built_rows(db.core) if total else 0
        put("migration_rows_done", done, name)
        put("migration_rows", max(done, total), name)
        put("migrations_waiting", int(prepared(db.core) is not None), name)

    def _read_backups(self) -> None:
        """Read the manifests of backups, from time to time: they may be in an object store."""
        if time.monotonic() - self._backups_at < BACKUPS_EVERY_S:
            return
        self._backups_at = time.monotonic()
        for name, where in self._backups.items():
            try:
                found = manifests.needed(place(where))
                ours = found.uuid == self._server.databases[name].uuid
                self._backup_heads[name] = found.head if ours else None
            except (Error, OSError):
                self._backup_heads[name] = None

    def _backup(self, name: str, db: Database, put: Put) -> None:
        if name in self._backups:
            head = self._backup_heads[name]
            put("backup_readable", int(head is not None), name)
            if head is not None:
                put("backup_last_timestamp_seconds", head.time_ns / 1e9, name)
                put("backup_lag_records", max(0, db.log.head - head.seq), name)

    def _calls(self, put: Put) -> None:
        activity = self._server.activity
        open_now, most = self._server.connected
        put("connections", open_now)
        put("connections_max", most)
        running = Counter(call.method for call in list(activity.running.values()))
        for method, count in running.items():
            put("calls_running", count, method)
        denied = Counter[str](activity.denials.copy())
        for (method, code), count in activity.counts.copy().items():
            put("calls_total", count, method, code.name)
            if code in DENIED:
                denied[method] += count
        for method, count in denied.items():
            put("calls_denied_total", count, method)
        for method, times in activity.times.copy().items():
            if method not in ENDLESS:
                put("call_seconds", times, method)
        for reason, count in activity.drops.copy().items():
            put("connections_dropped_total", count, reason)
        for limit, count in activity.limits.copy().items():
            put("limits_hit_total", count, limit)

    def _certificates(self, put: Put) -> None:
        tls = self._server.tls_files
        if tls is None or find_spec("cryptography") is None:
            return
        for path in (tls.certificate, tls.client_ca):
            try:
                for subject, end in security.ends(path) if path is not None else ():
                    put("certificate_expires_timestamp_seconds", end.timestamp(), str(path), subject)
            except OpenError:  # a file is being replaced
                continue


Put = Callable[..., None]


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets of a histogram as Prometheus expects them: each includes all lower ones."""
    total, found = 0, list[tuple[str, float]]()
    for bound, count in zip((*histogram.bounds, float("inf")), list(histogram.counts), strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
    return found


def _tables(name: str, db: Database, put: Put) -> None:
    tables, counts, sizes = db.schema.tables, db.tables.counts, sizes_of(db.core)
    rows = {info.name: counts.get(info.space, 0) for info in tables.values()}
    largest = sorted(rows, key=lambda one: (-rows[one], one))
    shown = set(largest if len(largest) <= TABLES_MAX else largest[: TABLES_MAX - 1])
    total_rows_of, total_bytes = Counter[str](), Counter[str]()
    indexes: list[tuple[int, str, str]] = []
    for info in tables.values():
        table = info.name if info.name in shown else OTHER
        total_rows_of[table] += rows[info.name]
        total_bytes[table] += sizes.get(info.row_prefix, 0)
        indexes += [(sizes.get(index.prefix, 0), info.name, one) for one, index in info.indexes.items()]
    for table, count in total_rows_of.items():
        put("table_rows", count, name, table)
        put("table_bytes", total_bytes[table], name, table)
    indexes.sort(key=lambda one: (-one[0], one))
    most = len(indexes) if len(indexes) <= INDEXES_MAX else INDEXES_MAX - 1
    for size, table, index in indexes[:most]:
        put("index_bytes", size, name, table, index)
    if rest := indexes[most:]:
        put("index_bytes", sum(size for size, _, _ in rest), name, OTHER, OTHER)


def _consumers(name: str, db: Database, put: Put) -> None:
    found = list(db.consumers)
    put("consumers", len(found), name)
    found.sort(key=lambda one: (-one.lag_records, one.name))
    held, log_bytes = max(1, db.log.head - db.log.trimmed.base), db.engine.log_bytes()
    for one in found[:CONSUMERS_MAX]:
        put("consumer_lag_records", one.lag_records, name, one.name)
        put("consumer_lag_bytes", log_bytes * one.lag_records // held, name, one.name)
        put("consumer_lag_seconds", one.lag_s, name, one.name)
        put("consumer_over_cap", int(bool(one.over)), name, one.name)


def _archive(name: str, db: Database, put: Put) -> None:
    put("archived_records", db.log.trimmed.base, name)
    if archived_ns := db.core.archived_ns():
        put("archive_last_timestamp_seconds", archived_ns / 1e9, name)
    if db.retention is not None and (failing_ns := db.retention.status().error_ns):
        put("archive_failing_since_timestamp_seconds", failing_ns / 1e9, name)


def page_table() -> Iterable[str]:
    """Yield the lines of the table in docs/metrics.md."""
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        yield f"| `{one.name}` | {one.kind} | {labels} | {one.help} |"
