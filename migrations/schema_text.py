"""Schema text: a schema as lines that diff well in review, and from which a database can be created.

    # comment
    migration 20260105093000_create_airports 5f3c…      its title and digest; in order of versions
    table airports flights.v20260105093000.Airport      in order of names
      key faa
      ttl 86400s
      index by_city city
      unique by_icao icao position.lat
      person icao                                       rows are sealed; then `hashed-index`, `hashed-unique`
    file flights/v20260105093000/model.proto            protobuf's description of a model, one field a line
      package: "flights.v20260105093000"
      …
    file google/protobuf/timestamp.proto                protobuf's own files are only named

Numbers of spaces, tables and indexes are not included, because each database has its own. A loaded schema
gets new ones, in the order of the lines.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import FieldDescriptor

from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.errors import Error, MigrationError, SchemaError
from everlog.store.schema.descriptors import descriptor_of, dotted, resolve
from everlog.store.schema.schema import IndexInfo, Schema

_COMMENT = "# The schema of a database, by `everlog dump`. `everlog load` makes a database of it."
_OWN = "google/protobuf/"


class Dumped(NamedTuple):
    """The content of a text: migrations as (version, name, digest), and the schema that they made."""

    migrations: list[tuple[int, str, bytes]]
    schema: log_pb2.Schema


def to_text(schema: Schema, infos: Iterable[MigrationInfo] = ()) -> str:
    """Return the text of a schema, with the applied ones of these migrations. Read-only.

    Raises MigrationError while a migration is in progress, because a partly built schema is not worth
    keeping.
    """
    lines = [_COMMENT, ""]
    for info in sorted(infos, key=lambda info: info.version):
        if info.state is State.BUILDING:
            remedy = " (`everlog rollback`)"
            if info.decision_id:
                remedy = f": it waits for decision {info.decision}"
            raise MigrationError(
                f"migration {info.title} is in progress; dump the schema after it is finished, or given"
                f" up{remedy}",
                version=info.version,
            )
        if info.state is not State.PENDING:
            lines.append(f"migration {info.title} {info.digest.hex()}")
    for name, table in sorted(schema.tables.items()):
        key = " ".join(dotted(path) for path in table.key_fields)
        lines += ["", f"table {name} {table.proto.model}", f"  key {key}"]
        lines += [f"  ttl {_duration(table.ttl_ns)}"] if table.ttl_ns else []
        if table.sealed:
            person = resolve(descriptor_of(table.model), table.proto.person.numbers)
            lines.append(f"  person {'.'.join(step.name for step in person)}")
        lines += [_index(index) for _, index in sorted(table.indexes.items())]
    for file in sorted(schema.proto.models.file, key=lambda file: file.name):
        lines += ["", f"file {file.name}"]
        if not file.name.startswith(_OWN):
            lines += _message_lines(file, "  ")
    return "\n".join(lines) + "\n"


def from_text(text: str, where: str = "the text") -> Dumped:
    """Parse a text. Read-only. Raises SchemaError with the line that it cannot read."""
    schema = log_pb2.Schema(next_space=1, next_table=1)
    migrations: list[tuple[int, str, bytes]] = []
    wanted: list[tuple[int, log_pb2.TableSchema, list[str]]] = []
    blocks = list(_blocks(text))
    for number, line, body in blocks:
        try:
            word, *rest = line.split()
            match word, rest:
                case "migration", [title, digest]:
                    version, _, name = title.partition("_")
                    migrations.append((int(version), name, bytes.fromhex(digest)))
                case "table", [name, model]:
                    table = schema.tables.add(
                        name=name, id=schema.next_table, space=schema.next_space, model=model, next_index=1
                    )
                    schema.next_table += 1
                    schema.next_space += 1
                    wanted.append((number, table, body))
                case "file", [name]:
                    schema.models.file.append(_file(name, body))
                case _:
                    raise ValueError(f"expected a migration, a table or a file, found {line!r}")
        except (ValueError, text_format.ParseError, ImportError, Warning) as error:
            raise SchemaError(f"{where}:{number}: {error}", where=f"{where}:{number}") from None
    schema.version = max((version for version, _, _ in migrations), default=0)
    _resolve(schema, wanted, where)
    return Dumped(sorted(migrations), schema)


def _duration(ns: int) -> str:
    return f"{ns}ns" if ns % 10**9 else f"{ns // 10**9}s"


def _index(index: IndexInfo) -> str:
    fields = " ".join(dotted(path) for path in index.fields)
    hashed = "hashed-" if index.hashed else ""
    return f"  {hashed}{'unique' if index.unique else 'index'} {index.name} {fields}"


def _message_lines(message: Any, indent: str) -> Iterator[str]:
    """Yield protobuf's text format, with one line for each field and each value of an enum."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            if field.type != FieldDescriptor.TYPE_MESSAGE:
                yield f"{indent}{text_format.MessageToString(_only(message, field, one), as_one_line=True)}"
            elif field.name in {"message_type", "nested_type", "enum_type"}:
                yield f"{indent}{field.name} {{"
                yield from _message_lines(one, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field.name} {{ {text_format.MessageToString(one, as_one_line=True)} }}"


def _only(message: Any, field: FieldDescriptor, value: Any) -> Any:
    made = type(message)()
    if field.is_repeated:
        getattr(made, field.name).append(value)
    else:
        setattr(made, field.name, value)
    return made


def _blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the lines that start at the margin, each with its number and the indented lines below it."""
    at, title, body = 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] == " " and title:
            body.append(line.strip())
            continue
        if title:
            yield at, title, body
        at, title, body = number, line, []
    if title:
        yield at, title, body


def _file(name: str, body: list[str]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    if body:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the parser only warns of an escape that it does not know
            text_format.Parse("\n".join(body), file)
        return file
    module = name.removesuffix(".proto").replace("/", ".") + "_pb2"
    if not name.startswith(_OWN):
        raise ValueError(f"expected the content of {name}, found nothing below it")
    importlib.import_module(module).DESCRIPTOR.CopyToProto(file)
    return file


def _resolve(
    schema: log_pb2.Schema, wanted: list[tuple[int, log_pb2.TableSchema, list[str]]], where: str
) -> None:
    """Resolve names of fields to numbers, when all models are known."""
    try:
        models = Schema(log_pb2.Schema(models=schema.models))
    except TypeError as error:  # raised by protobuf for well-formed but inconsistent files
        raise SchemaError(f"{where}: its files are not valid models: {error}", where=where) from None
    for number, table, body in wanted:
        try:
            model: Any = models.model(table.model).DESCRIPTOR
            for line in body:
                word, *names = line.split()
                if word == "key":
                    table.key.extend(_path(model, name) for name in names)
                elif word in ("ttl", "life"):  # `life` in files of earlier versions
                    table.life_ns = int(names[0].rstrip("ns")) * (1 if names[0].endswith("ns") else 10**9)
                elif word == "person":
                    table.person.CopyFrom(_path(model, names[0]))
                elif word.removeprefix("hashed-") in {"index", "unique"}:
                    paths = [_path(model, name) for name in names[1:]]
                    table.indexes.add(
                        name=names[0],
                        id=table.next_index,
                        fields=paths,
                        unique=word.endswith("unique"),
                        hashed=word.startswith("hashed-"),
                    )
                    table.next_index += 1
                else:
                    raise ValueError(
                        f"expected a key, an index or a ttl of table {table.name}, found {line!r}"
                    )
            if not table.key:
                raise ValueError(f"table {table.name} has no key")
        except (ValueError, KeyError, IndexError, TypeError, Error) as error:
            raise SchemaError(f"{where}:{number}: {error}", where=f"{where}:{number}") from None


def _path(model: Any, dotted: str) -> log_pb2.FieldPath:
    numbers = []
    for name in dotted.split("."):
        if model is None or name not in model.fields_by_name:
            raise ValueError(f"{dotted} is not a field of the model")
        field = model.fields_by_name[name]
        numbers.append(field.number)
        model = field.message_type
    return log_pb2.FieldPath(numbers=numbers)
