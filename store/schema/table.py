"""Table: the constants that a migration declares by hand, by which code refers to tables and fields.

    field = Fields(Airport)                      the type checker knows the model's field names
    FAA = field("faa", 1, STRING)                what the author declares; `check` compares it with the model
    CITY = field("city", 4, STRING)
    LAT = POSITION.then(field("lat", 1, DOUBLE))
    AIRPORTS = Table("airports", Airport, key=FAA, indexes=(Index("by_city", CITY),))

    db.get(AIRPORTS, "JFK")                      Airport | None
    db.scan(AIRPORTS.by_city, "New York")        Airports

A constant states what its author means; the model states what protobuf does. Both are compared when the
constant is created, before anything runs; the error names the constant's file and line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.store.errors import SchemaError
from everlog.store.schema.codec import MESSAGE, TIMESTAMP, Kind, kind_of


def check_keyable(table: Table[Any, Any], field: Field[Any], role: str, where: str) -> None:
    """Check that `field` belongs to the table's model and can be part of a key or an index. Raises
    SchemaError."""
    if field.steps[0].model is not table.model:
        raise SchemaError(
            f"{where}: {role} of table {table.name} names {field.model.__name__}.{field.dotted},"
            f" expected a field of {table.model.__name__}",
            where=where,
        )
    field.check()
    if field.kind.encode is None:
        raise SchemaError(
            f"{where}: {role} of table {table.name} names {field.dotted}, {field.kind.described};"
            " messages have no order: name one of its fields with .then(…)",
            where=where,
        )


def check_person(table: Table[Any, Any]) -> None:
    """Check that the table's person field and indexes allow its rows to be sealed. Raises SchemaError."""
    if table.person is not None:
        check_keyable(table, table.person, "the person", table.where)
    keys = {field.path for field in table.key}
    for index in table.indexes.values():
        if index.hashed and table.person is None:
            raise SchemaError(
                f"{index.where}: index {index.name} is hashed, but table {table.name} has no person field, so"
                " its rows are not sealed; leave out hashed=True",
                where=index.where,
            )
        sealed = [field.dotted for field in index.fields if field.path not in keys]
        if table.person is not None and sealed and not index.hashed:
            raise SchemaError(
                f"{index.where}: index {index.name} of table {table.name} would reveal sealed fields:"
                f" {', '.join(sealed)}, in order; declare it with hashed=True, which supports equality only,"
                " or remove it",
                where=index.where,
            )


def check_field(field: Field[Any], where: str) -> None:
    """Compare a field constant with the model. Raises SchemaError."""
    model = field.model.DESCRIPTOR
    found: FieldDescriptor | None = model.fields_by_name.get(field.name)
    label = f"{where}: field {field.name!r} of {model.full_name} ({model.file.name})"
    if found is None:
        raise SchemaError(
            f"{label} does not exist; the model has: {', '.join(f.name for f in model.fields)}",
            where=where,
        )
    if found.number != field.number:
        raise SchemaError(
            f"{label} is declared with number {field.number}, but has number {found.number} in the model",
            where=where,
        )
    if found.is_repeated:
        raise SchemaError(f"{label} is repeated; a key or an index needs a single value", where=where)
    kind = kind_of(found)
    if kind is not field.kind and not (kind is TIMESTAMP and field.kind is MESSAGE):
        raise SchemaError(
            f"{label} is declared as {field.kind.name}, but has type {kind.name} in the model", where=where
        )


N = TypeVar("N")
N_contra = TypeVar("N_contra", contravariant=True)
V = TypeVar("V")
A = TypeVar("A")

_DECLARING = "everlog.store.schema.table"


class _Clears(Protocol[N_contra]):
    """What every model has; its typed stub lists the model's field names."""

    def ClearField(self, field_name: N_contra, /) -> None: ...  # noqa: N802  protobuf's name


def caller() -> str:
    """Return `file:line` of the first frame outside of this module."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == _DECLARING and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Field(Generic[V]):
    """A field of a model, with the name, number and kind that its author declares."""

    def __init__(self, model: type[Any], name: str, number: int, kind: Kind[V]) -> None:
        self.model = model
        self.name = name
        self.number = number
        self.kind = kind
        self.parent: Field[Any] | None = None
        self.where = caller()

    def then(self, inner: Field[A]) -> Field[A]:
        """Return the field `inner` of the message in this field: `POSITION.then(LAT)`."""
        nested: Field[A] = Field(inner.model, inner.name, inner.number, inner.kind)
        nested.parent = self if inner.parent is None else self.then(inner.parent)
        return nested

    @property
    def steps(self) -> tuple[Field[Any], ...]:
        """The fields from the table's model to this one, outermost first."""
        return (*(self.parent.steps if self.parent else ()), self)

    @property
    def path(self) -> tuple[int, ...]:
        """The field numbers from the table's model to this field."""
        return tuple(step.number for step in self.steps)

    @property
    def dotted(self) -> str:
        """The field names from the table's model to this field, joined by dots."""
        return ".".join(step.name for step in self.steps)

    def check(self) -> None:
        """Compare the constant with the model. Read-only. Raises SchemaError."""
        for step in self.steps:
            check_field(step, self.where)

    def __repr__(self) -> str:
        return f"Field({self.model.__name__}.{self.dotted} = {self.number}, {self.kind!r})"


class Fields(Generic[N]):
    """Declares fields of one model. A name that the model does not have is a type error."""

    def __init__(self, model: type[_Clears[N]]) -> None:
        self.model: type[Any] = model

    def __call__(self, name: N, number: int, kind: Kind[V]) -> Field[V]:
        """Return the field with this name, number and kind."""
        return Field(self.model, str(name), number, kind)


class ModelFields:
    """All fields of a model, by name. For an unknown name, the AttributeError lists the known ones."""

    def __init__(self, model: type[Message]) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Field[Any]:
        found = self._model.DESCRIPTOR.fields_by_name.get(name)
        if found is None:
            known = ", ".join(field.name for field in self._model.DESCRIPTOR.fields)
            raise AttributeError(f"{self._model.DESCRIPTOR.full_name} has no field {name!r}; it has: {known}")
        return Field(self._model, name, found.number, kind_of(cast(FieldDescriptor, found)))

    def __iter__(self) -> Iterator[Field[Any]]:
        return (getattr(self, field.name) for field in self._model.DESCRIPTOR.fields)


__all__ = ["Field", "Fields", "Index", "Table", "walk"]

M = TypeVar("M", bound=Message)
K = TypeVar("K")
B = TypeVar("B")
C = TypeVar("C")

TTL_NS_MAX = 200 * 365 * 86_400 * 10**9


class Index(Generic[M]):
    """A secondary index over one or more fields, in this order."""

    table: Table[M, Any]

    def __init__(self, name: str, *fields: Field[Any], unique: bool = False, hashed: bool = False) -> None:
        """`hashed`: store HMACs of the values. Such an index supports equality but no order."""
        self.name = name
        self.fields = fields
        self.unique = unique
        self.hashed = hashed
        self.where = caller()

    def __repr__(self) -> str:
        fields = ", ".join(field.dotted for field in self.fields)
        return f"{'Unique index' if self.unique else 'Index'}({self.name} on {fields})"


class Table(Generic[M, K]):
    """A table: its name, the model of its rows, its primary key and its indexes.

    `ttl` is the default time to live of a row, from the commit that wrote it; None: rows do not expire.
    `person` is the field that says whose data a row is; rows are then sealed, except for their primary key.

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
        ttl: timedelta | None = None,
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
        ttl: timedelta | None = None,
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
        ttl: timedelta | None = None,
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
        ttl: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        model: type[M],
        *,
        key: Field[Any] | tuple[Field[Any], ...],
        indexes: tuple[Index[Any], ...] = (),
        ttl: timedelta | None = None,
        person: Field[Any] | None = None,
    ) -> None:
        self.name = name
        self.person = person
        self.model = model
        self.key: tuple[Field[Any], ...] = key if isinstance(key, tuple) else (key,)
        self.indexes: dict[str, Index[M]] = {}
        self.ttl = ttl
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
        """Return an index by name: `AIRPORTS.by_city`."""
        indexes: dict[str, Index[M]] = self.__dict__.get("indexes", {})
        if name not in indexes:
            known = ", ".join(indexes) or "none"
            raise AttributeError(f"table {self.__dict__.get('name')} has no index {name!r}; it has: {known}")
        return indexes[name]

    @property
    def ttl_ns(self) -> int:
        """The default time to live of a row, in nanoseconds; 0: rows do not expire."""
        ttl = self.ttl or timedelta()
        return ((ttl.days * 86_400 + ttl.seconds) * 10**6 + ttl.microseconds) * 1000

    @property
    def fields(self) -> ModelFields:
        """The fields of the model by name: `AIRPORTS.fields.name`."""
        return ModelFields(self.model)

    def check(self) -> None:
        """Check the constants against the model. Read-only. Raises SchemaError with the constant's file and
        line."""
        for word, what in ((self.name, "table"), *((name, "index") for name in self.indexes)):
            if not word.isidentifier() or word.startswith("_") or len(word) > 63:
                raise SchemaError(
                    f"{self.where}: expected the name of a {what} to be an identifier of at most 63"
                    f" characters that does not start with _, found {word!r}",
                    where=self.where,
                )
        if self.ttl is not None and not 0 < self.ttl_ns < TTL_NS_MAX:
            raise SchemaError(
                f"{self.where}: expected a ttl of table {self.name} above 0 and below 200 years, found"
                f" {self.ttl}",
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
    """Yield every field that the table's key, person and indexes name, each once."""
    seen: set[tuple[int, ...]] = set()
    person = (table.person,) if table.person is not None else ()
    for field in (*table.key, *person, *(f for index in table.indexes.values() for f in index.fields)):
        if field.path not in seen:
            seen.add(field.path)
            yield field
