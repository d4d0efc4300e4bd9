"""A sink that mirrors tables into an SQLite file."""
