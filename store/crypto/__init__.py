"""Encryption: the cipher, the master key, the key store, and the vault of people's keys."""
