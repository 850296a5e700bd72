"""The broker: it owns all state in one SQLite file, and it decides.

`core` decides (no socket, no clock, no randomness), `store` holds every SQL statement, `loop` moves
bytes, `service` is the process around them.
"""
