"""Tables: the projection of the log that reads are served from."""
