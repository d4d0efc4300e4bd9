"""The migrations of a shop, in the order of their names."""
