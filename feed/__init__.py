"""The change feed: cursors, filters, subscriptions and the shared tail. Knows no transport."""
