"""Brands: numbers that go down, and that no cleared environment takes off."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from worker import brand
from worker.brand import COMMANDS_MAX, Brands, find_brand, is_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits that were set, the first one as it was found; those of the test's own process stay as they are."""
    limits = [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])

    def set_limit(which: int, pair: tuple[int, int]) -> None:
        soft, hard = (limit % (1 << 64) for limit in pair)
        if soft > hard or hard > limits[-1][1] % (1 << 64):
            raise ValueError("not allowed to raise maximum limit")
        limits.append(pair)

    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return limits


def test_every_command_has_a_brand_of_its_own_that_is_the_workers(limit: list[tuple[int, int]]) -> None:
    brands = Brands()

    worn = [brands.put_on() for _ in range(3)]

    assert brands.first is not None
    assert worn == [brands.first, brands.first - 1, brands.first - 2]
    assert limit[1:] == [(number, number) for number in worn]
    assert all(is_of(number, brands.first) for number in worn)
    assert not is_of(brands.first + 1, brands.first)
    assert not is_of(brands.first - COMMANDS_MAX, brands.first)
    assert not is_of(None, brands.first)
    assert not is_of(brands.first, None)


def test_worker_below_a_worker_has_brands_of_its_own_below_those(limit: list[tuple[int, int]]) -> None:
    outer = Brands()
    worn = outer.put_on()

    inner = Brands()

    assert inner.put_on() == inner.first is not None
    assert outer.first is not None
    assert worn is not None
    assert inner.first <= worn - COMMANDS_MAX
    assert not is_of(inner.first, outer.first)


@pytest.mark.parametrize("hard", [0, 200_000, 1 << 60])
def test_limit_that_was_meant_is_left_alone(limit: list[tuple[int, int]], hard: int) -> None:
    limit[:] = [(hard, hard)]

    brands = Brands()

    assert (brands.first, brands.put_on()) == (None, None)
    assert limit == [(hard, hard)]


def test_soft_limit_that_was_meant_stays(limit: list[tuple[int, int]]) -> None:
    limit[:] = [(200_000, resource.RLIM_INFINITY)]

    brands = Brands()
    worn = brands.put_on()

    assert worn is not None
    assert limit[-1] == (200_000, worn)


def test_brands_do_not_leave_their_range_when_they_run_out(
    limit: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brand, "COMMANDS_MAX", 3)
    brands = Brands()

    worn = [brands.put_on() for _ in range(5)]

    assert worn[2:] == [worn[2]] * 3
    assert all(brand.is_of(number, brands.first) for number in worn)


def test_where_limits_cannot_be_set_there_are_no_brands(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, pair: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert [Brands().put_on() for _ in range(2)] == [None, None]


def test_brand_is_found_on_a_process_that_hides_everything_else() -> None:
    program = (
        "import subprocess, sys; from worker.brand import *; worn = Brands().put_on();"
        "hidden = subprocess.Popen(['env', '-i', 'setsid', 'sh', '-c', 'echo; read x'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE); hidden.stdout.readline();"
        "found = find_brand(hidden.pid); hidden.communicate(b'x');"
        "sys.exit(worn is None or found != worn)"
    )

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_process_that_is_not_there_has_no_brand() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    assert find_brand(gone.pid) is None
