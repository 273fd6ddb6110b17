"""The message in bytes and in values: pure, never raising on odd mail."""
