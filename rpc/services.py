"""Services: all that a server answers, one servicer a service file, registered.

Reflection and the health service, which are gRPC's own, are the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from everlog.audit.note import Signer
from everlog.migrations.approval import Approval
from everlog.proto import (
    admin_pb2,
    admin_pb2_grpc,
    archive_pb2,
    archive_pb2_grpc,
    consumers_pb2,
    consumers_pb2_grpc,
    feed_pb2,
    history_pb2,
    history_pb2_grpc,
    migrations_pb2,
    migrations_pb2_grpc,
    people_pb2,
    people_pb2_grpc,
    proofs_pb2,
    proofs_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
)
from everlog.rpc.admin_service import AdminService
from everlog.rpc.archive_service import ArchiveService
from everlog.rpc.consumers_service import ConsumersService
from everlog.rpc.feed_service import PATH, FeedService
from everlog.rpc.history_service import HistoryService
from everlog.rpc.hosting import Hosting
from everlog.rpc.migrations_service import MigrationsService, Problems
from everlog.rpc.people_service import PeopleService
from everlog.rpc.proofs_service import ProofsService
from everlog.rpc.store_service import StoreService
from everlog.store.master import MasterKey

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (store_pb2, "Store"),
        (feed_pb2, "Feed"),
        (migrations_pb2, "Migrations"),
        (admin_pb2, "Admin"),
        (history_pb2, "History"),
        (people_pb2, "People"),
        (archive_pb2, "Archive"),
        (consumers_pb2, "Consumers"),
        (proofs_pb2, "Proofs"),
    )
)


def register(
    calls: Any,
    hosting: Hosting,
    *,
    signer: Signer | None,
    next_master_key: MasterKey | None,
    archives: Mapping[str, str],
    migrations: Mapping[str, str],
    approvals: Mapping[str, Approval],
    starting: Mapping[str, asyncio.Future[None]],
    problems: Problems,
) -> FeedService:
    """Registers every service with `calls`, which is a server as generated code knows one; returns the
    one whose answers do not end by themselves."""
    feed = FeedService(hosting)
    calls.add_raw(PATH, feed.subscribe)
    store_pb2_grpc.add_StoreServicer_to_server(StoreService(hosting), calls)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(hosting), calls)
    archive_pb2_grpc.add_ArchiveServicer_to_server(ArchiveService(hosting, archives), calls)
    consumers_pb2_grpc.add_ConsumersServicer_to_server(ConsumersService(hosting), calls)
    history_pb2_grpc.add_HistoryServicer_to_server(HistoryService(hosting), calls)
    people_pb2_grpc.add_PeopleServicer_to_server(PeopleService(hosting, next_master_key), calls)
    proofs_pb2_grpc.add_ProofsServicer_to_server(ProofsService(hosting, signer), calls)
    migrating = MigrationsService(hosting, migrations, approvals, starting, problems)
    migrations_pb2_grpc.add_MigrationsServicer_to_server(migrating, calls)
    return feed
