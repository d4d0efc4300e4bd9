"""Audit and recovery: backup, restore, archive, and proofs, built on the store's log. Uses no network."""

from everlog.audit.archive import Archival, archive
from everlog.audit.backup import Backup, backup
from everlog.audit.restore import Restored, restore
from everlog.audit.retention import Retention
from everlog.audit.verify_backup import verify_backup

__all__ = ["Archival", "Backup", "Restored", "Retention", "archive", "backup", "restore", "verify_backup"]
