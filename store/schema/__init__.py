"""Schema: types, tables, descriptors, and how one schema follows another."""
