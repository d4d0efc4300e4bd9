"""History: rows and schemas as of any record of the log."""
