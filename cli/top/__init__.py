"""`queuectl top`: jobs, workers and dead jobs on the whole screen, and keys that act on them.

`state` knows what is shown and what keys do; `view` draws it; `asking` talks to the broker in a thread of its own;
`terminal` and `keys` own the terminal; `loop` joins them. Only `view` and `terminal` load rich.
"""
