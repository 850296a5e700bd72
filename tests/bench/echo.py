"""A ROUTER that sends back what it gets: `python -m tests.bench.echo ENDPOINT`, until it is ended."""

from __future__ import annotations

import sys

import zmq


def main() -> None:
    """Echo for ever."""
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(sys.argv[1])
    while True:
        router.send_multipart(router.recv_multipart())


if __name__ == "__main__":
    main()
