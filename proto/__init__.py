"""The contract: the log record, and one gRPC service per file; generated code beside it.

`log.proto` is on disk and on the wire permanently; the other files are services that use
it. `make proto` writes the generated code.
"""
