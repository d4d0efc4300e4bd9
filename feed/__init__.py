"""The change feed: cursors, filters, tail, life cycle. Knows no transport."""
