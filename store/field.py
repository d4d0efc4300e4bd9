"""Field: a field of a model as the constants of a migration name it.

field = Fields(Airport)                      the type checker knows the model's names
FAA = field("faa", 1, STRING)                its author's word; `check` compares it with the model
LAT = POSITION.then(field("lat", 1, DOUBLE))
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.store.declaration import check_field
from everlog.store.kinds import Kind, kind_of

N = TypeVar("N")
N_contra = TypeVar("N_contra", contravariant=True)
V = TypeVar("V")
A = TypeVar("A")

_DECLARING = frozenset(("everlog.store.field", "everlog.store.table"))


class _Clears(Protocol[N_contra]):
    """What every model has; its typed stub lists the names of the model's fields."""

    def ClearField(self, field_name: N_contra, /) -> None: ...  # noqa: N802  protobuf's name


def caller() -> str:
    """`file:line` of the first frame outside of the modules that declare."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") in _DECLARING and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Field(Generic[V]):
    """A field of a model: what its author takes its name, number and kind to be."""

    def __init__(self, model: type[Any], name: str, number: int, kind: Kind[V]) -> None:
        self.model = model
        self.name = name
        self.number = number
        self.kind = kind
        self.parent: Field[Any] | None = None
        self.where = caller()

    def then(self, inner: Field[A]) -> Field[A]:
        """The field `inner` of the message that is in this field: `POSITION.then(LAT)`."""
        nested: Field[A] = Field(inner.model, inner.name, inner.number, inner.kind)
        nested.parent = self if inner.parent is None else self.then(inner.parent)
        return nested

    @property
    def steps(self) -> tuple[Field[Any], ...]:
        """The fields from the table's model to this one, outermost first."""
        return (*(self.parent.steps if self.parent else ()), self)

    @property
    def path(self) -> tuple[int, ...]:
        return tuple(step.number for step in self.steps)

    @property
    def dotted(self) -> str:
        return ".".join(step.name for step in self.steps)

    def check(self) -> None:
        """Read-only. Raises SchemaError where the constant is not what the model says."""
        for step in self.steps:
            check_field(step, self.where)

    def __repr__(self) -> str:
        return f"Field({self.model.__name__}.{self.dotted} = {self.number}, {self.kind!r})"


class Fields(Generic[N]):
    """Declares fields of one model. A name that the model does not have is a type error."""

    def __init__(self, model: type[_Clears[N]]) -> None:
        self.model: type[Any] = model

    def __call__(self, name: N, number: int, kind: Kind[V]) -> Field[V]:
        return Field(self.model, str(name), number, kind)


class ModelFields:
    """All fields of a model, by name. One that it does not have is an AttributeError that names those
    that it has."""

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
