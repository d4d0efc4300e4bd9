"""Lint: findings in migrations that are not applied yet."""
