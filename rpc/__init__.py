"""The network: server, one servicer per service, remote database, security."""
