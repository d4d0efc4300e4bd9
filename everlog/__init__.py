"""everlog: an embedded database that never forgets. This is its face."""
