"""The client: a database on a server."""
