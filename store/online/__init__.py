"""Online changes: tables rewritten and indexes built beside the live ones."""
