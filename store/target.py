"""Target: where projections are written: a column family, or memory over somebody else's."""

from __future__ import annotations

from collections.abc import Callable

from rocksdict import ColumnFamily, Rdict, WriteBatch

from everlog.store.engine import Engine
from everlog.store.overlay import Overlay
from everlog.store.projection import Batch
from everlog.store.view import FamilyView, LiveView, View


class FamilyTarget:
    """A column family that takes projections. `live`: whichever holds the live tables."""

    def __init__(
        self, engine: Engine, family: Rdict | None = None, handle: ColumnFamily | None = None
    ) -> None:
        self._engine = engine
        self.family = family
        self.handle = handle
        self.view: View = LiveView(engine) if family is None else FamilyView(family)

    def forget(self) -> None:
        """Lets go of the column family: it can be dropped."""
        self.family = self.handle = None
        self.view = LiveView(self._engine)

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        return self._engine.get if self.family is None else self.family.get

    def batch(self) -> Batch:
        writes = WriteBatch(True)
        writes.set_default_column_family(self.handle or self._engine.data_handle)
        return writes

    def write(self, writes: Batch) -> None:
        assert isinstance(writes, WriteBatch)
        self._engine.write_data(writes, live=self.family is None)

    def delete(self, start: bytes, end: bytes) -> None:
        writes = WriteBatch(raw_mode=True)
        writes.delete_range(start, end, self.handle or self._engine.data_handle)
        self._engine.write_data(writes, live=self.family is None)


class MemoryTarget:
    """Takes projections in memory, over the tables of a process that writes."""

    def __init__(self, base: View) -> None:
        self._over: dict[bytes, bytes | None] = {}
        self.view: View = Overlay(base, self._over)

    def over(self, base: View) -> View:
        """Another view of the same tables with what was projected put over it."""
        return Overlay(base, self._over)

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        return self.view.get

    def batch(self) -> Batch:
        return _MemoryBatch()

    def write(self, writes: Batch) -> None:
        assert isinstance(writes, _MemoryBatch)
        self._over.update(writes)

    def delete(self, start: bytes, end: bytes) -> None:
        self._over.update({key: None for key, _ in self.view.items(start, end)})


class _MemoryBatch(dict[bytes, bytes | None]):
    def __delitem__(self, key: bytes) -> None:
        self[key] = None
