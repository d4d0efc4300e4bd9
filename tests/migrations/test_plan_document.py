import pytest

from everlog import CorruptionError
from everlog.migrations.proposal import FindingEntry, MigrationEntry, Plan, StepEntry, decode_plan

# As the first version wrote it, which must stay readable.
FIRST = (
    b'{"database":"0f8fad5b-d9cb-469f-a165-70867728950e","name":"flights","at":812,"from":20260101000000,'
    b'"to":20260102000000,"migrations":[{"version":20260102000000,"name":"index_names","digest":"6c48",'
    b'"files":{"model.proto":"ab12"},"steps":[{"text":"build index airports.by_name over 2 rows",'
    b'"instant":false,"rows":2}]}],"findings":[{"id":"test/no-data","severity":"info","file":"a/__init__.py",'
    b'"line":3,"text":"no test data","fix":"write it"}]}'
)
PLAN = Plan(
    database="0f8fad5b-d9cb-469f-a165-70867728950e",
    name="flights",
    at=812,
    from_version=20260101000000,
    to_version=20260102000000,
    migrations=[
        MigrationEntry(
            20260102000000,
            "index_names",
            "6c48",
            {"model.proto": "ab12"},
            [StepEntry("build index airports.by_name over 2 rows", False, 2)],
        )
    ],
    findings=[FindingEntry("test/no-data", "info", "a/__init__.py", 3, "no test data", "write it")],
)


def test_the_first_document_is_read_for_ever() -> None:
    assert decode_plan(FIRST) == PLAN


def test_a_plan_is_read_as_it_was_written_and_always_written_alike() -> None:
    assert decode_plan(PLAN.encode()) == PLAN
    assert PLAN.encode() == decode_plan(PLAN.encode()).encode()


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", FIRST[:-1], FIRST.replace(b"812", b'"812"')])
def test_what_is_no_plan_is_damage(document: bytes) -> None:
    with pytest.raises(CorruptionError, match="expected the plan of a proposal as JSON"):
        decode_plan(document)
