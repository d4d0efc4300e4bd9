"""The server: databases of this process over gRPC."""
