"""`transformers serve`, the real one, with the nano policy in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from anomalyr1.policy.folders import NANO_FOLDER
from support.served import free_port


@contextlib.contextmanager
def serving_nano(log):
    """Give URL and model name; what it says goes to the file `log`. Skips where its packages are absent."""
    if importlib.util.find_spec("openai") is None:
        pytest.skip("`transformers serve` needs the package openai: pip install -r requirements/dev.txt")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(NANO_FOLDER)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"transformers serve did not start: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1", str(NANO_FOLDER)
    finally:
        process.kill()
        process.wait(timeout=60)
