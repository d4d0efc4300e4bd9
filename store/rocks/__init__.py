"""RocksDB: the engine, its errors, views, files on disk, and who owns them."""
