"""Protocol: what a client and a server agree on beside the messages."""

SCHEMA_KEY = "everlog-schema"  # metadata of a request: version of the schema that its bytes are encoded by
ASKED_KEYS_MAX = 4096  # keys of people that one request may ask for
