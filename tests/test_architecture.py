"""The rules of the house that a machine can check: which way imports run, what the cores may not touch,
what the command line may not load, and how long a file or a function may be.

The checks read the source and never import it, so that a module that cannot be imported is checked as well.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("queuectl", "broker", "worker", "cli")
OURS = (*ROOMS, "tests")

MAY_IMPORT = {"queuectl": (), "broker": ("queuectl",), "worker": ("queuectl",), "cli": ("queuectl",)}
# The modules that start the daemons, and so may reach into broker and worker, inside the functions that do it.
STARTERS = ("cli/serve.py", "cli/broker.py", "cli/worker.py")

PURE: tuple[str, ...] = ("broker/core.py", "broker/core/**/*.py", "broker/lifecycle.py", "broker/backoff.py")
PURE += ("worker/core.py", "worker/core/**/*.py")
# What would bring a socket, a clock, chance, a process, a file or a log line into a core.
OUTSIDE_WORLD: tuple[str, ...] = ("asyncio", "concurrent", "ctypes", "importlib", "multiprocessing", "threading")
OUTSIDE_WORLD += ("select", "selectors", "socket", "ssl", "zmq", "os", "pty", "signal", "subprocess")
OUTSIDE_WORLD += ("fcntl", "glob", "pathlib", "shutil", "sqlite3", "tempfile", "logging", "structlog")
OUTSIDE_WORLD += ("random", "sched", "secrets", "time", "uuid", "broker.loop", "worker.loop", "worker.process")
OUTSIDE_CALLS = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "input", "open", "print")

# Each of these costs a command of 70 ms tens of milliseconds more; only daemons and drawing commands pay for them.
SLOW_IMPORTS = ("asyncio", "prometheus_client", "sqlite3", "structlog")

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60


@dataclass(frozen=True)
class Import:
    """One imported name, in full, and where it stands."""

    name: str
    line: int
    in_function: bool
    for_types: bool

    def within(self, packages: tuple[str, ...]) -> bool:
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files(*patterns: str) -> list[Path]:
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(node: ast.AST, package: str, *, in_function: bool = False, for_types: bool = False) -> Iterator[Import]:
    """Yield every import below a node of a module that stands in `package`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for name in imported_names(child, package):
                yield Import(name, child.lineno, in_function, for_types)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, package, in_function=True, for_types=for_types)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            guarded = ast.Module(body=child.body, type_ignores=[])
            yield from imports(guarded, package, in_function=in_function, for_types=True)
            otherwise = ast.Module(body=child.orelse, type_ignores=[])
            yield from imports(otherwise, package, in_function=in_function, for_types=for_types)
        else:
            yield from imports(child, package, in_function=in_function, for_types=for_types)


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    prefix = ".".join([*base, *([node.module] if node.module else [])])
    return [f"{prefix}.{alias.name}" for alias in node.names]


def imports_against_the_way(path: str, tree: ast.AST) -> list[str]:
    """List the imports of a file that run against the way of the house."""
    room, package = path.split("/")[0], ".".join(path.split("/")[:-1])
    others = tuple(name for name in OURS if name != room and name not in MAY_IMPORT[room])
    found = [each for each in imports(tree, package) if each.within(others)]
    if path in STARTERS:
        found = [each for each in found if not (each.in_function and each.within(("broker", "worker")))]
    return [f"{path}:{each.line} imports {each.name}" for each in found]


def reaches_outside(path: str, tree: ast.AST) -> list[str]:
    """List the imports and calls by which a core would reach the outside world. Imports for types alone are free."""
    package = ".".join(path.split("/")[:-1])
    found = [
        f"{path}:{each.line} imports {each.name}"
        for each in imports(tree, package)
        if each.within(OUTSIDE_WORLD) and not each.for_types
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in OUTSIDE_CALLS or called.removeprefix("datetime.") in OUTSIDE_CALLS:
                found.append(f"{path}:{node.lineno} calls {called}")
    return found


def long_functions(path: str, tree: ast.AST) -> list[str]:
    """List the functions over the limit, counted from `def`: a command's options are not its length."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [f"{path}:{node.lineno} {node.name} has {n} lines" for node, n in lengths if n > FUNCTION_LINES_MAX]


SOURCES = files(*(f"{room}/**/*.py" for room in ROOMS))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_run_one_way(path: Path) -> None:
    assert imports_against_the_way(relative(path), parse(path)) == []


@pytest.mark.parametrize("path", files(*PURE), ids=relative)
def test_cores_reach_nothing_outside(path: Path) -> None:
    assert reaches_outside(relative(path), parse(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_functions_are_short(path: Path) -> None:
    assert long_functions(relative(path), parse(path)) == []


@pytest.mark.parametrize("path", [*SOURCES, *files(*(f"{room}/**/*.sql" for room in ROOMS))], ids=relative)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.skipif(not (ROOT / "cli" / "main.py").exists(), reason="there is no command line yet")
@pytest.mark.parametrize("arguments", [None, ["--version"]], ids=["import", "version"])
def test_command_line_loads_nothing_slow(arguments: list[str] | None) -> None:
    program = f"""
import json, sys
import cli.main
try:
    {arguments} is None or cli.main.main({arguments})
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {SLOW_IMPORTS} if name in sys.modules]))
"""
    # Coverage would load sqlite3 into the child before the command line has its say.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.skipif(not (ROOT / "queuectl" / "__init__.py").exists(), reason="there is no package yet")
def test_version_is_the_same_in_package_and_project() -> None:
    import queuectl

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert queuectl.__version__ == project["version"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("queuectl/jobs.py", "import broker"),
        ("queuectl/jobs.py", "def late():\n    from cli.main import main"),
        ("broker/loop.py", "from worker.loop import run"),
        ("broker/loop.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import worker"),
        ("broker/store/jobs.py", "from ...worker import loop"),
        ("worker/loop.py", "import tests.harness"),
        ("cli/serve.py", "from broker.loop import run"),
        ("cli/jobs.py", "def serve():\n    from broker.loop import run"),
    ],
)
def test_import_against_the_way_is_found(path: str, source: str) -> None:
    assert len(imports_against_the_way(path, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("broker/loop.py", "import brokerage, queuectl.jobs, broker.core"),
        ("broker/store/jobs.py", "from . import schema\nfrom ..core import Broker"),
        ("cli/serve.py", "def serve():\n    from broker.loop import run"),
    ],
)
def test_import_along_the_way_is_allowed(path: str, source: str) -> None:
    assert imports_against_the_way(path, ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "def wait():\n    from time import sleep",
        "import os.path",
        "from concurrent.futures import Future",
        "from broker import loop",
        "now = datetime.now(UTC)",
        "now = datetime.datetime.now()",
        "day = datetime.date.today()",
        "open('queue.db')",
    ],
)
def test_reach_outside_is_found(source: str) -> None:
    assert len(reaches_outside("broker/core.py", ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from broker.store import Store",
        "from datetime import datetime, timedelta",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random",
        "store.open()",
        "timeout = message.time",
    ],
)
def test_what_stays_inside_is_allowed(source: str) -> None:
    assert reaches_outside("broker/core.py", ast.parse(source)) == []


def test_long_function_is_found() -> None:
    body = "    pass\n" * FUNCTION_LINES_MAX

    assert long_functions("cli/jobs.py", ast.parse(f"def just_right():\n{body[9:]}")) == []
    assert len(long_functions("cli/jobs.py", ast.parse(f"def too_long():\n{body}"))) == 1
