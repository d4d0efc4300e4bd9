"""The contract: the log record, and one gRPC service per file; generated code beside it.

`log.proto` is on disk and on the wire for ever; the other files are the services that speak of
it. `make proto` writes the generated code.
"""
