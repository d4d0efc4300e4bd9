"""Any method of a server by its descriptor: what it needs, its help, requests from text and JSON, streams."""

from __future__ import annotations

import itertools
import json
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from google.protobuf.message import Message

from everlog import AccessError, Error, RowError, SchemaError, UnavailableError
from everlog.rpc.address import parse
from everlog.rpc.client.api import Api, command, grpcurl, table_of
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.methods import Method, Services, is_time, reflected
from everlog.rpc.client.requests import Tables, decoded, merged, message, shown, tree
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import DESCRIPTORS, Server
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.added import weather

TOKENS = {"root": "token-of-root", "ann": "token-of-ann", "bob": "token-of-bob"}
ROLES = {"root": ("owner",), "ann": ("reader",)}


@pytest.fixture
def server(db: EmbeddedDatabase) -> Iterator[Server]:
    db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
    with Server({"x": db}, tokens=TOKENS, roles=ROLES, services=[weather()]) as server:
        yield server


def opened(server: Server, name: str) -> Any:
    return closing(Channel(parse(f"{server.url('x')}?token={TOKENS[name]}"), retry_s=2))


def calls(api: Api, service: str, method: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Call a method, and return its responses as JSON values."""
    found = api.services.method(service, method)
    request = api.request(found, given)
    return [api.shown(one, table=table_of(given)) for one in api.call(found, [request])]


def paths(services: Services) -> set[str]:
    return {method.path for service in services for method in service.methods.values()}


def test_every_method_of_the_contract_has_help_and_a_known_right() -> None:
    for service in Services.of_contract():
        assert service.help, service.name
        for method in service.methods.values():
            assert method.summary, f"{method.path}: write a comment in its proto"
            assert method.needs, method.path
            assert "right " not in " ".join(str(need) for need in method.needs).replace("any right", "")


def test_a_time_is_known_by_its_name_and_its_type() -> None:
    wrong = [
        field.full_name
        for service in DESCRIPTORS
        for file in (service.file, *service.file.dependencies)
        for one in file.message_types_by_name.values()
        for field in one.fields
        if field.name.endswith("_ns") != is_time(field) and field.name not in {"keep_ns", "life_ns", "ttl_ns"}
    ]
    assert not wrong, "a time is a `fixed64 …_ns`, a duration another number"


def test_a_service_that_was_added_to_a_server_is_there_with_its_help(server: Server) -> None:
    with opened(server, "root") as channel:
        services = Api(channel).services
        found = services.service("Weather")
        assert found.help == "What it is like outside."
        assert [*found.methods] == ["Forecast", "Observe", "Sum", "Change"]
        method = found.method("Forecast")
        assert method.help == "Forecasts the weather of a place. A second sentence."
        assert method.summary == "Forecasts the weather of a place"
        assert str(method.needs[0]) == "read"
        assert method.fields["place.height"].help == "In metres."
        assert "place.near" in method.fields  # whose type is around it already
        assert "place.near.name" not in method.fields
        assert method.fields["kinds"].choices == ("SUNNY", "RAINY")
        assert method.fields["celsius"].oneof == "unit"
        types = {name: one.type for name, one in method.fields.items()}
        assert (types["at"], types["every"], types["wait_ms"], types["since_ns"]) == (
            *("time", "duration"),
            *("duration", "time"),
        )
        assert types["weights"] == "string=double"


def test_a_caller_sees_what_the_gate_would_admit_and_nothing_else(server: Server) -> None:
    expected = {f"{service.full_name}/{method.name}" for service in DESCRIPTORS for method in service.methods}
    with opened(server, "root") as channel:
        owner = paths(Api(channel).services)
    assert expected <= owner
    with opened(server, "ann") as channel:
        api = Api(channel)
        seen = paths(api.services)
        assert {"everlog.v1.Store/Get", "everlog.v1.History/Log", "added.v1.Weather/Forecast"} <= seen
        assert not seen & {"everlog.v1.Store/Commit", "everlog.v1.Access/Grant", "added.v1.Weather/Change"}
        assert "Proofs" not in {service.name for service in api.services}
        with pytest.raises(AccessError, match="ann lacks the right admin"):
            calls(api, "Weather", "Change", {})
        with pytest.raises(AccessError, match="ann lacks the right grant"):
            calls(api, "Access", "Grant", {"grant": {"identity": "ann", "role": "owner"}})
    with opened(server, "bob") as channel:  # without any right in the database: what is of the server
        assert paths(Api(channel).services) == {
            *(
                one.path
                for service in Services.of_contract()
                for one in service.methods.values()
                if one.needs[0].server
            ),
            *(f"grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
        }


def test_limits_of_roles_are_those_of_the_gate(server: Server, db: EmbeddedDatabase) -> None:
    db.access.grant("bob", "reader", ("air*",), reason="why")
    with opened(server, "bob") as channel:
        api = Api(channel)
        seen = paths(api.services)
        assert {"everlog.v1.Store/Get", "everlog.v1.History/Log"} <= seen
        assert not seen & {"everlog.v1.Migrations/List", "everlog.v1.Feed/Subscribe"}
        assert calls(api, "Store", "Count", {"table": "airports"})[0]["count"] == "1"


def test_rows_keys_and_times_are_json(server: Server) -> None:
    with opened(server, "root") as channel:
        api = Api(channel)
        put = {"table": "airports", "row": {"faa": "LGA", "name": "La Guardia"}, "expires_ns": "in 100y"}
        (answer,) = calls(api, "Store", "Commit", {"writes": [put], "reason": "because"})
        assert answer["time_ns"].startswith("20")
        assert answer["time_ns"].endswith("Z")
        for key in ("LGA", ["LGA"]):
            (found,) = calls(api, "Store", "Get", {"table": "airports", "key": key})
            assert found["row"]["row"] == {"faa": "LGA", "name": "La Guardia", "city": ""}
            assert found["row"]["key"] == ["LGA"]
            assert found["row"]["expires_ns"] > "2126"
        raw = tree(method := api.services.method("Store", "Get"), {"table": ["airports"], "key": ["LGA"]})
        (line,) = [grpcurl(parse(server.url("x")), method, [api.request(method, raw)])]
        data = json.loads(shlex.split(line)[shlex.split(line).index("-d") + 1])
        assert calls(api, "Store", "Get", {**raw, "key": f"base64:{data['key']}"})[0]["row"]["key"] == ["LGA"]
        (page,) = calls(api, "Store", "Scan", {"table": "airports", "start": "K"})
        assert [one["key"] for one in page["rows"]] == [["LGA"]]
        versions = calls(api, "History", "History", {"table": "airports", "key": "LGA"})
        assert versions[1]["versions"][0]["row"]["name"] == "La Guardia"
        assert versions[1]["versions"][0]["op"] == "PUT"
        commits = [
            one for page in calls(api, "History", "Log", {"kind": "commit"}) for one in page["commits"]
        ]
        assert [one["changes"][0]["key"] for one in commits] == [["JFK"], ["LGA"]]
        assert commits[1]["changes"][0]["row"]["name"] == "La Guardia"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"plaze": ["x"]}, "Forecast has no field 'plaze'; did you mean place"),
        ({"place.heigt": ["x"]}, "did you mean place.height"),
        ({"count": ["many"]}, "expected a uint32 for count, found 'many'"),
        ({"count": ["-1"]}, "count|out of range"),
        ({"count": ["1", "2"]}, "expected one count, found 2"),
        ({"celsius": ["maybe"]}, "expected true or false for celsius, found 'maybe'"),
        ({"celsius": ["true"], "factor": ["2"]}, "expected one of celsius and factor, found both"),
        ({"kinds": ["SUNY"]}, r"expected .*SUNNY.* for kinds\[0\], found 'SUNY'"),
        ({"weights": ["north"]}, "expected KEY=VALUE for weights, found 'north'"),
        ({"weights": ["n=1", "n=2"]}, "expected each key of weights once"),
        ({"weights": ["n=x"]}, r"weights\['n'\], found 'x'"),
        ({"at": ["someday"]}, "at: expected a time like .*, found 'someday'"),
        ({"every": ["often"]}, "every: expected a duration like .*, found 'often'"),
        ({"wait_ms": ["0.5ms"]}, "finer than its unit"),
        ({"wait_ms": ["1 moon"]}, "expected a duration"),
        ({"since_ns": ["1969-12-31"]}, "before 1970"),
        ({"raw": ["hex:xyz"]}, "expected base64, or hex: for raw"),
        ({"place": ["[1]"]}, "expected a JSON object in place, found a list"),
        ({"place": ['{"nam": "x"}']}, "place.nam: Place has no such field; did you mean name"),
        ({"place": ['{"name": "x", "name": "y"}']}, "expected each field once in place, found .name twice"),
        ({"place": ['{"name": 7}']}, r"for place.name, found a number \(7\)"),
        ({"places": ["{"]}, r"expected a JSON object in places\[0\]"),
        ({"place": ["{}"], "place.name": ["x"]}, "expected place or the fields of it"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(texts: dict[str, list[str]], says: str) -> None:
    method = described()
    with pytest.raises(RowError, match=says):
        message(method.input, tree(method, texts), nowhere())


def described() -> Method:
    service = weather()
    files = [*service.files, *(one for one in map(file_of, DESCRIPTORS[-1].file.dependencies))]
    from everlog.proto import contract

    found = Services([*files, *contract.files().values()], ["added.v1.Weather"])
    return found.method("Weather", "Forecast")


def file_of(descriptor: Any) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    made = FileDescriptorProto()
    descriptor.CopyToProto(made)
    return made


def nowhere() -> Tables:
    def fetch() -> Any:
        raise UnavailableError("there is no server here")

    return Tables(fetch)


def test_a_request_is_what_its_texts_say() -> None:
    method = described()
    texts = {
        "place.name": ["Ulm"],
        "place.height": ["-3"],
        "kinds": ["SUNNY", "2"],
        "weights": ["n=1.5", "s=0"],
        "at": ["2026-01-05T09:30Z"],
        "every": ["1h30m"],
        "wait_ms": ["1.5s"],
        "since_ns": ["2026-01-05T09:30:00.123456789Z"],
        "celsius": ["true"],
        "raw": ["hex:00ff"],
        "places": ['{"name": "a", "near": {"name": "b"}}', "{}"],
    }
    made = message(method.input, tree(method, texts), nowhere())
    found = shown(made, nowhere())
    assert {name: value for name, value in found.items() if value not in ("", "0", 0)} == {
        "place": {"name": "Ulm", "height": -3},
        "kinds": ["SUNNY", "RAINY"],
        "weights": {"n": 1.5, "s": 0.0},
        "at": "2026-01-05T09:30:00Z",
        "every": "5400s",
        "wait_ms": 1500,
        "since_ns": "2026-01-05T09:30:00.123456789Z",
        "celsius": True,
        "raw": "AP8=",
        "places": [{"name": "a", "near": {"name": "b"}}, {}],
    }
    again = message(method.input, decoded(json.dumps(found), "it"), nowhere())
    assert again == made


def test_a_json_that_is_too_deep_too_large_or_twice_the_same_is_refused() -> None:
    method = described()
    deep = '{"near":' * 5000 + "{}" + "}" * 5000
    with pytest.raises(RowError, match="expected"):
        message(method.input, {"place": decoded(deep, "it")}, nowhere())
    with pytest.raises(RowError, match="at most 64 MiB, found 65 MiB"):
        message(method.input, {"reason": "x" * (65 << 20)}, nowhere())
    with pytest.raises(RowError, match=r"expected place\.name once"):
        merged({"place": {"name": "a"}}, {"place": {"name": "b"}})
    assert merged({"place": {"name": "a"}}, {"place": {"height": 1}}) == {"place": {"name": "a", "height": 1}}


def test_streams_go_in_and_come_out_one_by_one(server: Server) -> None:
    with opened(server, "root") as channel:
        api = Api(channel)
        observe, add = (api.services.method("Weather", name) for name in ("Observe", "Sum"))
        with closing(api.call(observe, [api.request(observe, {"wait_ms": 1})])) as answers:
            assert [api.shown(one)["number"] for one in itertools.islice(answers, 3)] == [1, 2, 3]
        sent = (api.request(add, {"count": number}, first=number == 1) for number in range(1, 101))
        (answer,) = api.call(add, sent)
        assert api.shown(answer)["number"] == 5050

        def broken() -> Iterator[Message]:
            yield api.request(add, {"count": 1})
            raise RowError("line 2 is wrong")

        with pytest.raises(RowError, match="line 2 is wrong"):
            list(api.call(add, broken()))
    for _ in range(1200):  # a closed stream ends at the server as well
        if not server.activity.running:
            break
        threading.Event().wait(0.05)
    assert not server.activity.running


def test_a_line_has_no_secret_and_is_the_same_call(server: Server) -> None:
    with opened(server, "root") as channel:
        api = Api(channel)
        method = api.services.method("Weather", "Forecast")
        texts = {"place.name": ["it's $HOME"], "kinds": ["SUNNY", "RAINY"]}
        request = api.request(method, tree(method, texts))
        line = grpcurl(parse(f"{server.url('x')}?token=token-of-root"), method, [request])
        assert "token-of-root" not in line
        assert '"authorization: Bearer $EVERLOG_TOKEN"' in line
        assert shlex.split(line)[-1] == "added.v1.Weather/Forecast"
        ours = command(server.url("x"), method, texts)
        assert shlex.split(ours)[3:] == [
            *("api", "Weather", "Forecast"),
            *("--place.name=it's $HOME", "--kinds=SUNNY", "--kinds=RAINY"),
        ]
        with pytest.raises(RowError, match="at most 100 kB for a line"):
            grpcurl(parse(server.url("x")), method, [request] * 10_000)


def test_an_unknown_service_or_method_suggests_the_nearest(server: Server) -> None:
    with opened(server, "root") as channel:
        services = Api(channel).services
        for words, says in (
            (("Wether", "x"), "there is no service 'Wether'; did you mean Weather"),
            (("Weather", "Forcast"), "service Weather has no method 'Forcast'; did you mean Forecast"),
        ):
            with pytest.raises(SchemaError, match=says):
                services.method(*words)


def test_a_server_that_is_away_is_an_error(server: Server) -> None:
    with opened(server, "root") as channel:
        files, names = reflected(channel)
        assert "added.v1.Weather" in names
        assert {"added_weather.proto", "everlog/proto/log.proto"} <= {file.name for file in files}
        server.stop()
        with pytest.raises(Error, match="cannot be reached"):
            _ = Api(channel).services


def test_reflection_finds_methods_as_well(server: Server) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

    with opened(server, "root") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel.grpc)
        names = ["everlog.v1.Store.Get", "everlog.v1.Store", "everlog.v1.Op", "everlog.v1.Nothing.Get"]
        asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
        answers = list(stub.ServerReflectionInfo(iter(asked), metadata=channel.metadata, timeout=30))
    assert [one.original_request for one in answers] == asked
    found = [bool(one.file_descriptor_response.file_descriptor_proto) for one in answers]
    assert found == [True, True, True, False]


def test_a_caller_without_a_name_may_call_what_the_server_says(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, closing(Channel(parse(server.url("x")))) as channel:
        (answer,) = calls(Api(channel), "Access", "WhoAmI", {})
        assert "everlog.v1.Access/Grant" in answer["methods"]
