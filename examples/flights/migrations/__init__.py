"""The migrations of the flights database, in the order of their names."""
