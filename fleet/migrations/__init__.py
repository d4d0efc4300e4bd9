"""The migrations of the ledger, the database of a coordinator."""
