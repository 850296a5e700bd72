"""Real broker processes for tests, and plain peers of them: a REQ client and a scripted worker that know the wire.

A broker says over a pipe that it is ready, so nobody polls for it. `python -m tests.harness_process` is the
broker's process; every process that is started here is ended by its pid.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgpack
import zmq

from queuectl.handshake import put_keys
from queuectl.home import Home
from queuectl.ids import new_request_id
from queuectl.messages import (
    TO_WORKER,
    Beat,
    Bye,
    ByeOk,
    Echo,
    Grant,
    Held,
    Hello,
    Push,
    Recorded,
    Result,
    Results,
    ToBroker,
    ToWorker,
    Welcome,
)
from queuectl.ways import Way
from queuectl.wire import REPLY_BYTES_MAX, decode, encode

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 30.0  # a wait that lasts longer has failed; on a busy machine everything else is only slow
T = TypeVar("T")
M = TypeVar("M", bound=ToWorker)


def until(condition: Callable[[], T], what: str = "the condition", limit_s: float = LIMIT_S) -> T:
    """Wait until this returns something true, and return that."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {limit_s:g} s")
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A TCP port that has been free, and the one after it too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


# --- the broker ------------------------------------------------------------------------------------------


class StartFailed(Exception):
    """The broker did not start: what it said, and its exit code."""

    def __init__(self, error: dict[str, Any], exit_code: int):
        super().__init__(f"{error} (exit {exit_code})")
        self.error = error
        self.exit_code = exit_code


class BrokerProcess:
    """A broker in a process of its own. May be started again after it has ended."""

    def __init__(self, home: Path, *, data_dir: Path | None = None, listen: str | None = None, insecure: bool = True):
        self.home = Home(home)
        self.data_dir = home if data_dir is None else data_dir
        self.listen = listen
        self.log_file = Path(tempfile.mkdtemp(prefix="q-log-")) / "broker.log"
        self._insecure = insecure
        self._process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None  # the pipe over which it says that it is ready

    @property
    def endpoint(self) -> str:
        """Where clients are served."""
        return self.home.client_endpoint

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs, or ran last."""
        assert self._process is not None
        return self._process

    def start(self) -> dict[str, Any]:
        """Start it and wait until it is ready; what it said then. Raises StartFailed."""
        self.spawn()
        return self.ready()

    def spawn(self) -> None:
        """Start it and do not wait."""
        self._told, tell = os.pipe()
        options = {
            "home": str(self.home.path),
            "data_dir": str(self.data_dir),
            "listen": self.listen,
            "insecure": self._insecure,
            "tell": tell,
        }
        command = [sys.executable, "-m", "tests.harness_process", json.dumps(options)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, cwd=ROOT, pass_fds=(tell,))
        os.close(tell)

    def ready(self) -> dict[str, Any]:
        """Wait until it is ready, after `spawn`."""
        told, self._told = self._told, None
        assert told is not None
        said = _read_to_end(told)
        if "error" in said:
            raise StartFailed(said["error"], self.wait())
        assert "pid" in said, f"the broker died before it was ready: {self.log_file.read_text()[-2000:]}"
        return said

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(limit_s)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()
        if self._told is not None:
            os.close(self._told)
            self._told = None

    def pause(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """The records of its log, all or those of one event. A line that is not JSON is an error."""
        records = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [record for record in records if event in (None, record["event"])]

    def close(self) -> None:
        """End it, whatever it does, and forget its log."""
        if self.is_running():
            self.resume()
            self.kill()
        shutil.rmtree(self.log_file.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and self.log_file.exists():
            error.add_note("the broker's log ends with:\n" + self.log_file.read_text()[-3000:])
        self.close()


def _read_to_end(pipe: int) -> dict[str, Any]:
    """What was said over the pipe until its end, at most a minute."""
    data = b""
    try:
        while select.select([pipe], [], [], 2 * LIMIT_S)[0]:
            more = os.read(pipe, 65536)
            if not more:
                return dict(json.loads(data)) if data else {}
            data += more
        raise AssertionError("the broker said nothing")
    finally:
        os.close(pipe)


@contextmanager
def running_broker(home: Path, **options: Any) -> Iterator[BrokerProcess]:
    """A broker that runs while the block does."""
    with BrokerProcess(home, **options) as broker:
        broker.start()
        yield broker


# --- a client that knows nothing but REQ and msgpack ------------------------------------------------------


class RawClient:
    """Lock-step requests over one REQ socket."""

    def __init__(self, endpoint: str | Way):
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._way = Way(endpoint) if isinstance(endpoint, str) else endpoint
        self._socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        link = self._context.socket(zmq.REQ)
        link.linger = 0
        link.sndtimeo = 1000  # with `immediate`, a send to a peer that has just gone would wait for ever
        link.immediate = 1
        put_keys(link, self._way)
        link.connect(self._way.endpoint)
        return link

    def send(self, body: bytes) -> None:
        """Send any bytes as a request. Raises TimeoutError if the broker went in this moment."""
        assert self._socket.poll(int(LIMIT_S * 1000), zmq.POLLOUT), "no broker"
        try:
            self._socket.send(body)
        except zmq.Again:
            self._renew()
            raise TimeoutError from None

    def _renew(self) -> None:
        self._socket.close(0)
        self._socket = self._connect()

    def receive(self, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The reply. Raises TimeoutError, after which the socket is a new one."""
        if not self._socket.poll(int(limit_s * 1000)):
            self._renew()
            raise TimeoutError
        reply: dict[str, Any] = msgpack.unpackb(self._socket.recv())
        return reply

    def ask(self, op: str, *, request_id: str | None = None, limit_s: float = LIMIT_S, **args: Any) -> dict[str, Any]:
        """The whole reply to one request."""
        request_id = request_id or new_request_id()
        self.send(msgpack.packb({"v": 1, "id": request_id, "op": op, "args": args}))
        reply = self.receive(limit_s)
        assert (reply["v"], reply["id"]) == (1, request_id)
        return reply

    def ok(self, op: str, **args: Any) -> dict[str, Any]:
        """The data of a reply that must be one of success."""
        reply = self.ask(op, **args)
        assert "ok" in reply, reply
        data: dict[str, Any] = reply["ok"]
        return data

    def enqueue(self, *commands: str, **fields: Any) -> list[str]:
        """Store jobs; their ids."""
        reply = self.ok("enqueue", jobs=[{"command": command, **fields} for command in commands])
        assert reply["errors"] == []
        ids: list[str] = reply["ids"]
        return ids

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- a worker that does what the test says ------------------------------------------------------------------


class ScriptedWorker:
    """The worker's end of the link, one message at a time. Runs nothing."""

    def __init__(self, endpoint: str | Way, *, slots: int = 1, boot: str | None = None, home: str = "/scripted"):
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.way = Way(endpoint) if isinstance(endpoint, str) else endpoint
        self.slots = slots
        self.boot = boot or os.urandom(16).hex()
        self.worker_home = home
        self.broker_id = ""
        self.session = 0
        self.hellos = 0
        self.beats = 0
        self.received = 0  # number of the last push
        self.grants: dict[int, Grant] = {}  # leases it holds
        self._waiting: list[ToWorker] = []
        self.socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        link = self._context.socket(zmq.DEALER)
        link.linger = 0
        link.sndtimeo = 1000
        link.immediate = 1
        link.rcvhwm = 0
        link.maxmsgsize = REPLY_BYTES_MAX
        put_keys(link, self.way)
        link.connect(self.way.endpoint)
        assert link.poll(int(LIMIT_S * 1000), zmq.POLLOUT), "no broker"
        return link

    def reconnect(self) -> None:
        """A new socket, as after silence."""
        self.socket.close(0)
        self._waiting.clear()
        self.socket = self._connect()

    def say(self, message: ToBroker) -> None:
        """Send one message. Raises TimeoutError if the broker is away."""
        try:
            self.socket.send(encode(message))
        except zmq.Again:
            raise TimeoutError from None

    def hello(self, *, queues: tuple[str, ...] = (), done: tuple[int, ...] = (), limit_s: float = LIMIT_S) -> Welcome:
        """Begin a session; what the broker welcomed us with. `done`: held leases whose results wait."""
        held = [Held(grant.lease, grant.job, grant.attempt, grant.lease in done) for grant in self.grants.values()]
        self.hellos += 1
        self.say(
            Hello(
                version_min=1,
                version_max=1,
                boot=self.boot,
                home=self.worker_home,
                host="scripted",
                pid=os.getpid(),
                slots=self.slots,
                queues=list(queues),
                software="0",
                draining=False,
                held=held,
                broker=self.broker_id if held else "",
                n=self.hellos,
            )
        )
        welcome = self.hear(Welcome, limit_s)
        self.session, self.broker_id = welcome.session, welcome.broker
        self.beats = self.received = 0
        for lease in welcome.drop:
            self.grants.pop(lease, None)
        return welcome

    def hear(self, kind: type[M], limit_s: float = LIMIT_S) -> M:
        """The next message of this kind; others wait until they are asked for."""
        end = time.monotonic() + limit_s
        for place, message in enumerate(self._waiting):
            if isinstance(message, kind):
                del self._waiting[place]
                return message
        while True:
            message = self._receive(end - time.monotonic())
            if isinstance(message, kind):
                return message
            self._waiting.append(message)

    def next(self, limit_s: float = LIMIT_S) -> ToWorker:
        """The next message, whatever it is."""
        return self._waiting.pop(0) if self._waiting else self._receive(limit_s)

    def _receive(self, limit_s: float) -> ToWorker:
        if not self.socket.poll(max(0, int(limit_s * 1000))):
            raise TimeoutError(f"nothing was said; waiting: {self._waiting}")
        message = decode(self.socket.recv(), TO_WORKER, bytes_max=REPLY_BYTES_MAX)
        if isinstance(message, Push):
            self.received = message.seq
            self.grants |= {grant.lease: grant for grant in message.grants}
        return message

    def pushed(self) -> list[Grant]:
        """The grants of the next push."""
        return self.hear(Push).grants

    def beat(self, limit_s: float = LIMIT_S) -> Echo:
        """One heartbeat that names all it holds, and the answer."""
        self.beats += 1
        self.say(Beat(self.session, self.beats, self.received, list(self.grants), [], draining=False))
        while (echo := self.hear(Echo, limit_s)).n != self.beats:
            pass
        return echo

    def finish(self, *grants: Grant, exit_code: int = 0) -> list[str]:
        """Report results; the verdicts."""
        self.say(Results(self.session, [result_of(grant, exit_code) for grant in grants]))
        verdicts: dict[int, str] = {}
        while len(verdicts) < len(grants):
            verdicts |= {verdict.lease: verdict.verdict for verdict in self.hear(Recorded).verdicts}
        for grant in grants:
            self.grants.pop(grant.lease, None)
        return [verdicts[grant.lease] for grant in grants]

    def leave(self) -> None:
        """Say bye."""
        self.say(Bye(self.session))
        self.hear(ByeOk)

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def result_of(grant: Grant, exit_code: int = 0) -> Result:
    """What a worker says of a run without output."""
    return Result(
        lease=grant.lease,
        job=grant.job,
        attempt=grant.attempt,
        outcome="exit" if exit_code else "completed",
        exit_code=exit_code,
        signal=None,
        started_at_ms=time.time_ns() // 1_000_000,
        duration_ms=1,
        stdout_bytes=0,
        stderr_bytes=0,
        last_line="",
        note="",
    )


# --- a proxy that breaks the link ---------------------------------------------------------------------------


class TcpProxy:
    """Stands between two ends of TCP connections and treats what passes as `mode` says.

    `pass`; `to_server`, `to_client`, `both`: bytes of these ways vanish; `hold`: they wait until `pass`;
    `reset`: connections are cut with RST, and new ones too.
    """

    MODES = ("pass", "to_server", "to_client", "both", "hold", "reset")

    def __init__(self, port: int):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._peers: dict[socket.socket, tuple[socket.socket, bool]] = {}  # other end; whether bytes go to the server
        self._held: list[tuple[socket.socket, bytes]] = []
        self._mode = "pass"
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def set_mode(self, mode: str) -> None:
        """Change what happens to what passes from now on."""
        assert mode in self.MODES
        self._mode = mode
        self._wake_in.send(b"m")

    def close(self) -> None:
        """Cut all connections and end."""
        self._wake_in.send(b"q")
        self._thread.join()
        for end in (self._listener, self._wake_in, self._wake_out):
            end.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._wake_out:
                    if b"q" in end.recv(4096):
                        self._cut_all()
                        return
                    self._on_mode()
                elif end is self._listener:
                    self._accept()
                elif end in self._peers:
                    self._move(end)

    def _on_mode(self) -> None:
        if self._mode == "reset":
            self._cut_all()
        elif self._mode == "pass":
            held, self._held = self._held, []
            for other, data in held:
                self._pass_on(other, data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._mode == "reset":
            _reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _reset(client)
            return
        self._peers |= {client: (server, True), server: (client, False)}
        for end in (client, server):
            self._selector.register(end, selectors.EVENT_READ)

    def _move(self, end: socket.socket) -> None:
        other, to_server = self._peers[end]
        try:
            data = end.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._cut(end)
        elif self._mode == "hold":
            self._held.append((other, data))
        elif self._mode not in ("both", "to_server" if to_server else "to_client"):
            self._pass_on(other, data)

    def _pass_on(self, other: socket.socket, data: bytes) -> None:
        if other in self._peers:
            try:
                other.sendall(data)
            except OSError:
                self._cut(other)

    def _cut(self, end: socket.socket) -> None:
        other, _ = self._peers[end]
        for each in (end, other):
            del self._peers[each]
            self._selector.unregister(each)
            _reset(each)

    def _cut_all(self) -> None:
        while self._peers:
            self._cut(next(iter(self._peers)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


# --- the process ----------------------------------------------------------------------------------------------


def main() -> int:
    """Be a broker, as the options say; readiness or the error goes over the pipe."""
    from broker.service import run_broker
    from queuectl.config import load_config
    from queuectl.errors import QueuectlError

    options = json.loads(sys.argv[1])
    tell = options["tell"]

    def say(what: dict[str, Any]) -> None:
        os.write(tell, json.dumps(what).encode())
        os.close(tell)

    os.set_inheritable(tell, False)
    home = Home(Path(options["home"]))
    try:
        return run_broker(
            home=home,
            config=load_config(
                home, {"data_dir": options["data_dir"], "log_level": "debug", "listen": options["listen"]}
            ),
            insecure_no_auth=options["insecure"],
            ready=say,
        )
    except QueuectlError as error:
        say({"error": error.to_wire()})
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
