"""A service that no line of everlog knows: its proto is compiled here, and its types are of that file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

from everlog.proto import generate
from everlog.rpc.server.reflection import Service

PROTO = """
// Weather: what it is like outside.
syntax = "proto3";
package added.v1;
import "everlog/proto/access.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";

service Weather {
  // Forecasts the weather of a place. A second sentence.
  rpc Forecast(ForecastRequest) returns (ForecastResponse) {
    option (everlog.v1.needs) = {right: READ};
  }
  // Streams a value a tick, until the caller has seen enough.
  rpc Observe(ForecastRequest) returns (stream ForecastResponse) {
    option (everlog.v1.needs) = {right: READ};
  }
  // Adds up what it gets.
  rpc Sum(stream ForecastRequest) returns (ForecastResponse) {
    option (everlog.v1.needs) = {right: READ};
  }
  // Changes the weather.
  rpc Change(ForecastRequest) returns (ForecastResponse) {
    option (everlog.v1.needs) = {right: ADMIN};
  }
}

enum Kind {
  KIND_UNSPECIFIED = 0;
  SUNNY = 1;
  RAINY = 2;
}

message Place {
  string name = 1;
  // In metres.
  sint32 height = 2;
  Place near = 3;
}

message ForecastRequest {
  string database = 1;
  // Where, <b>with</b> "every" & character.
  Place place = 2;
  repeated Kind kinds = 3;
  map<string, double> weights = 4;
  google.protobuf.Timestamp at = 5;
  google.protobuf.Duration every = 6;
  uint32 wait_ms = 7;
  fixed64 since_ns = 8;
  oneof unit {
    bool celsius = 9;
    float factor = 10;
  }
  bytes raw = 11;
  uint32 count = 12;
  repeated Place places = 13;
  string reason = 14;
}

message ForecastResponse {
  ForecastRequest request = 1;
  string sky = 2;
  uint32 number = 3;
}
"""


@cache
def _files() -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as made:
        source, out = Path(made) / "added_weather.proto", Path(made) / "out"
        source.write_text(PROTO)
        options = ("--include_source_info", f"--descriptor_set_out={out}")
        command = (sys.executable, "-m", "grpc_tools.protoc", f"-I{made}", *options, source.name)
        subprocess.run((*command, f"-I{generate.PACKAGE}={generate.HERE}"), check=True)
        found = FileDescriptorSet.FromString(out.read_bytes())
    pool: Any = Default()
    for file in found.file:
        pool.Add(file)
    return found


def weather() -> Service:
    """Return the service: it answers with the request, and what it makes of it."""
    files, pool = list(_files().file), Default()
    descriptor = pool.FindServiceByName("added.v1.Weather")
    request = GetMessageClass(pool.FindMessageTypeByName("added.v1.ForecastRequest"))
    response: Any = GetMessageClass(pool.FindMessageTypeByName("added.v1.ForecastResponse"))

    async def forecast(asked: Any, context: Any) -> Any:
        return response(request=asked, sky=f"blue over {asked.place.name}")

    async def observe(asked: Any, context: Any) -> AsyncIterator[Any]:
        number = 0
        while not asked.count or number < asked.count:
            number += 1
            yield response(number=number, sky=asked.place.name)
            await asyncio.sleep(asked.wait_ms / 1e3)

    async def add(asked: Any, context: Any) -> Any:
        total = 0
        async for one in asked:
            total += one.count
        return response(number=total)

    how = {
        "request_deserializer": request.FromString,
        "response_serializer": response.SerializeToString,
    }
    handlers = {
        "Forecast": grpc.unary_unary_rpc_method_handler(forecast, **how),
        "Observe": grpc.unary_stream_rpc_method_handler(observe, **how),
        "Sum": grpc.stream_unary_rpc_method_handler(add, **how),
        "Change": grpc.unary_unary_rpc_method_handler(forecast, **how),
    }
    return Service(
        descriptor,
        lambda calls: calls.add_registered_method_handlers(descriptor.full_name, handlers),
        files,
    )
