"""The embedded database: log, projections, tables, indexes, transactions. Knows no network."""
