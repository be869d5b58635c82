"""The engine's durable memory: the record store's protocol, and its embedded implementation on SQLite."""
