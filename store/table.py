"""Table: the constants that a migration declares by hand, and all code names tables by.

    field = Fields(Airport)                      the type checker knows the model's names
    FAA = field("faa", 1, STRING)
    CITY = field("city", 4, STRING)
    AIRPORTS = Table("airports", Airport, key=FAA, indexes=(Index("by_city", CITY),))

    db.get(AIRPORTS, "JFK")                      Airport | None
    db.scan(AIRPORTS.by_city, "New York")        Airports

A constant says what its author meant; the model says what protobuf will do. `Table.check`
compares the two and names the file and line of the constant that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from google.protobuf.message import Message

from everlog.store.declaration import check_keyable, check_person
from everlog.store.errors import SchemaError
from everlog.store.field import Field, Fields, ModelFields, caller

__all__ = ["Field", "Fields", "Index", "Table", "walk"]

M = TypeVar("M", bound=Message)
K = TypeVar("K")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

LIFE_NS_MAX = 200 * 365 * 86_400 * 10**9


class Index(Generic[M]):
    """A secondary index over one or more fields, in their order."""

    table: Table[M, Any]

    def __init__(self, name: str, *fields: Field[Any], unique: bool = False, hashed: bool = False) -> None:
        """`hashed`: it holds HMACs of the values, finds what is equal, and knows no order."""
        self.name = name
        self.fields = fields
        self.unique = unique
        self.hashed = hashed
        self.where = caller()

    def __repr__(self) -> str:
        fields = ", ".join(field.dotted for field in self.fields)
        return f"{'Unique index' if self.unique else 'Index'}({self.name} on {fields})"


class Table(Generic[M, K]):
    """A table: its name, the model of its rows, its primary key and its indexes. `life`: how long a row
    lives from the commit that wrote it, where that says nothing else; None: for ever.

    `person` is the field that says whose a row is: rows are sealed then, but for their primary key.
    Raises SchemaError if the constants contradict the model or each other.
    """

    @overload
    def __init__(
        self: Table[M, A],
        name: str,
        model: type[M],
        *,
        key: Field[A],
        indexes: tuple[Index[Any], ...] = (),
        life: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Table[M, tuple[A, B]],
        name: str,
        model: type[M],
        *,
        key: tuple[Field[A], Field[B]],
        indexes: tuple[Index[Any], ...] = (),
        life: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Table[M, tuple[A, B, C]],
        name: str,
        model: type[M],
        *,
        key: tuple[Field[A], Field[B], Field[C]],
        indexes: tuple[Index[Any], ...] = (),
        life: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Table[M, tuple[Any, ...]],
        name: str,
        model: type[M],
        *,
        key: tuple[Field[Any], ...],
        indexes: tuple[Index[Any], ...] = (),
        life: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        model: type[M],
        *,
        key: Field[Any] | tuple[Field[Any], ...],
        indexes: tuple[Index[Any], ...] = (),
        life: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None:
        self.name = name
        self.person = person
        self.model = model
        self.key: tuple[Field[Any], ...] = key if isinstance(key, tuple) else (key,)
        self.indexes: dict[str, Index[M]] = {}
        self.life = life
        self.where = caller()
        for index in indexes:
            if index.name in self.indexes:
                raise SchemaError(
                    f"{index.where}: table {name} has two indexes named {index.name!r}; rename one",
                    where=index.where,
                )
            # A copy, so that one Index constant can serve in two tables.
            own: Index[M] = Index(index.name, *index.fields, unique=index.unique, hashed=index.hashed)
            own.table, own.where = self, index.where
            self.indexes[index.name] = own
            if not hasattr(Table, index.name) and index.name not in self.__dict__:
                self.__dict__[index.name] = own
        self.check()

    def __getattr__(self, name: str) -> Index[M]:
        """The handle of an index: `AIRPORTS.by_city`."""
        indexes: dict[str, Index[M]] = self.__dict__.get("indexes", {})
        if name not in indexes:
            known = ", ".join(indexes) or "none"
            raise AttributeError(f"table {self.__dict__.get('name')} has no index {name!r}; it has: {known}")
        return indexes[name]

    @property
    def life_ns(self) -> int:
        """How long a row lives, in nanoseconds; 0: for ever."""
        life = self.life or timedelta()
        return ((life.days * 86_400 + life.seconds) * 10**6 + life.microseconds) * 1000

    @property
    def fields(self) -> ModelFields:
        """The fields of the model by name: `AIRPORTS.fields.name`."""
        return ModelFields(self.model)

    def check(self) -> None:
        """Read-only. Raises SchemaError naming the constant, its file and its line."""
        for word, what in ((self.name, "table"), *((name, "index") for name in self.indexes)):
            if not word.isidentifier() or word.startswith("_") or len(word) > 63:
                raise SchemaError(
                    f"{self.where}: expected the name of a {what} to be an identifier of at most 63"
                    f" characters that does not start with _, found {word!r}",
                    where=self.where,
                )
        if self.life is not None and not 0 < self.life_ns < LIFE_NS_MAX:
            raise SchemaError(
                f"{self.where}: expected rows of table {self.name} to live longer than 0 and less than"
                f" 200 years, found {self.life}",
                where=self.where,
            )
        if not self.key:
            raise SchemaError(f"{self.where}: table {self.name} has no primary key", where=self.where)
        for field in self.key:
            check_keyable(self, field, "the primary key", self.where)
        for index in self.indexes.values():
            if not index.fields:
                raise SchemaError(f"{index.where}: index {index.name} has no fields", where=index.where)
            for field in index.fields:
                check_keyable(self, field, f"index {index.name}", index.where)
        check_person(self)

    def __repr__(self) -> str:
        return f"Table({self.name}: {self.model.__name__})"


def walk(table: Table[Any, Any]) -> Iterator[Field[Any]]:
    """Every field that the table's key and indexes name, each once."""
    seen: set[tuple[int, ...]] = set()
    person = (table.person,) if table.person is not None else ()
    for field in (*table.key, *person, *(f for index in table.indexes.values() for f in index.fields)):
        if field.path not in seen:
            seen.add(field.path)
            yield field
