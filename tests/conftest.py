"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from anomalyr1.data import places
from support.pages import Canary
from support.places import SHARED

# One thread for torch, here and in the processes that tests start: tiny models gain nothing from more, and
# results stay the same anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is not a failure; the same examples on every run.
settings.register_profile("anomalyr1", deadline=None, derandomize=True)
settings.load_profile("anomalyr1")


@pytest.fixture(scope="session", autouse=True)
def own_data(tmp_path_factory):
    """What tests write counts as the user's own data, wherever they stand; a test of the guard unsets it."""
    os.environ[places.VARIABLE] = str(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images that only developers have."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the developers' folder of real images beside the checkout (../shared/data)")
    return SHARED


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    from anomalyr1.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["anomalyr1", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def canary():
    one = Canary()
    yield one
    one.server.shutdown()
    one.server.server_close()
