"""The generated code in the repository is what the contract generates now."""

from pathlib import Path

from everlog.proto import contract, generate


def test_generated_code_is_what_make_proto_writes(tmp_path: Path) -> None:
    fresh = {path.name: path.read_bytes() for path in generate.generate(tmp_path)}
    checked_in = {path.name: path.read_bytes() for path in generate.HERE.glob("*_pb2*.py*")}
    checked_in[generate.CONTRACT] = (generate.HERE / generate.CONTRACT).read_bytes()
    assert sorted(checked_in) == sorted(fresh), "run make proto"
    stale = [name for name in fresh if checked_in[name] != fresh[name]]
    assert not stale, "run make proto"


def test_generated_code_names_its_files_by_the_package() -> None:
    from everlog.proto import feed_pb2, log_pb2

    assert log_pb2.DESCRIPTOR.name == "everlog/proto/log.proto"
    assert log_pb2.DESCRIPTOR.name in {one.name for one in feed_pb2.DESCRIPTOR.dependencies}


def test_the_contract_has_comments_with_their_places() -> None:
    for file in contract.files().values():
        places = file.source_code_info.location
        assert any(one.leading_comments for one in places), file.name
        assert all(len(one.span) in {3, 4} for one in places), "grpcurl refuses a place without a span"
