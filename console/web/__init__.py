"""Web pages of a server."""
