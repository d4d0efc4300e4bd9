"""The demo: all of everlog on real data, with processes that are killed on the way."""
