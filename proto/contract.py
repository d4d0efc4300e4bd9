"""Contract: the files of this folder as descriptors with their comments, which generated code has not.

*.proto ─ make proto ─▶ contract.binpb ─ files ─▶ reflection of a server, help of `everlog api`
"""

from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

FILE = Path(__file__).parent / "contract.binpb"


@cache
def files() -> dict[str, FileDescriptorProto]:
    """Return the files of the contract by name, such as `everlog/proto/log.proto`. Do not change them."""
    return {one.name: one for one in FileDescriptorSet.FromString(FILE.read_bytes()).file}
