"""The processes that decode: what happens in them costs them, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from anomalyr1.images import decoder_process
from anomalyr1.images.decoder_process import Budget
from anomalyr1.images.door import ImageError, Limits, Room, open_image
from anomalyr1.types import SetupError
from support.pictures import drawn, encoded, saved

KILLS = int(os.environ.get("ANOMALYR1_KILLS", "8"))
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX systems")
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


def decoder_ids() -> list[int]:
    return [decoder._process.pid for decoder in decoder_process._pool.decoders]


HUGE_WEBP = bytes.fromhex("524946461a000000574542505650384c0e0000002f3fdfb607071011fd0f4444ff03")
"""8,000 x 7,900 black pixels in 34 bytes."""


@posix
def test_killed_at_any_time_it_is_one_images_error(tmp_path):
    path = saved(tmp_path, encoded(drawn((900, 700)), "PNG"))
    expected = open_image(path).rgb.tobytes()
    rng = np.random.default_rng(2)
    outcomes = []
    for _ in range(KILLS):
        open_image(path)
        victim = decoder_process._pool._idle[-1]._process.pid  # which decodes the next image
        killer = threading.Timer(rng.random() * 0.05, os.kill, (victim, signal.SIGKILL))
        killer.start()
        while killer.is_alive() or victim in decoder_ids():
            try:
                outcomes.append(open_image(path).rgb.tobytes() == expected)
            except ImageError as error:
                assert "decoder died (signal 9); try again" in str(error)
    assert outcomes and all(outcomes)


@posix
def test_an_idle_decoder_that_died_is_replaced(tmp_path):
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    open_image(path)
    for decoder in decoder_process._pool.decoders:
        decoder._process.kill()
        decoder._process.wait()
    assert open_image(path).size_wh == (96, 64)


@posix
def test_what_takes_too_long_is_stopped(tmp_path):
    path = saved(tmp_path, HUGE_WEBP)
    with pytest.raises(ImageError, match=r"takes longer than 0.01 s; save it again"):
        open_image(path, Limits(max_seconds=0.01))
    assert open_image(saved(tmp_path, encoded(drawn(), "PNG"))).size_wh == (96, 64)


@posix
@pytest.mark.parametrize(
    ("work", "ending"),
    [("while True: pass", -getattr(signal, "SIGXCPU", 0)), ("bytes(2**31)", 1), ("bytes(2**20)", 0)],
)
def test_the_system_limits_time_and_memory(work, ending):
    code = f"from anomalyr1.images.decoder_process import _limit; _limit(0.1, 0)\n{work}"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == ending


def test_threads_get_their_own_pictures(tmp_path):
    pictures = [drawn((50 + n, 40)) for n in range(40)]
    paths = [saved(tmp_path, encoded(picture, "PNG"), f"{n}.png") for n, picture in enumerate(pictures)]
    with ThreadPoolExecutor(16) as pool:
        opened = list(pool.map(open_image, paths))
    for image, picture in zip(opened, pictures, strict=True):
        assert image.rgb.tobytes() == picture.tobytes()
    assert len(decoder_ids()) <= decoder_process.PROCESSES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_its_own_decoder(tmp_path):
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    expected = open_image(path).rgb.tobytes()
    parents = decoder_ids()
    child = os.fork()
    if child == 0:
        ending = 1
        try:
            same = open_image(path).rgb.tobytes() == expected
            ending = 0 if same and not set(decoder_ids()) & set(parents) else 2
        finally:
            os._exit(ending)
    for _ in range(20):
        assert open_image(path).rgb.tobytes() == expected
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert decoder_ids() == parents


ENDINGS = {
    "exit": "",
    "SIGKILL": "time.sleep(60)",
    "SIGINT": "while True: open_image(sys.argv[1])",
    "forked": "os.fork(); time.sleep(60)",
}


def interrupt(work, place):
    """Raise `KeyboardInterrupt` at the nth of the places where Python looks for signals.

    Returns how many places were passed, and whether the interrupt came out; nothing else may.
    """
    places = 0

    def watch(frame, event, arg):
        nonlocal places
        if event in ("call", "c_return"):
            places += 1
            if places == place:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(watch)
    try:
        work()
    except KeyboardInterrupt:
        return places, True
    finally:
        sys.setprofile(None)
    return places, False


def hold_shortly(budget):
    with budget.hold(1):
        len("work")


@pytest.mark.timeout(60)
def test_an_interrupt_anywhere_takes_nothing_of_a_budget():
    budget = Budget(1)
    places, _ = interrupt(lambda: hold_shortly(budget), 0)
    outcomes = [interrupt(lambda: hold_shortly(budget), place)[1] for place in range(1, places)]
    assert all(outcomes) and len(outcomes) > 5
    assert budget._free == 1 and not budget._lock.locked()
    # The control: a semaphore of threading keeps its lock.
    broken = []
    for place in range(1, 20):
        slots = threading.BoundedSemaphore(1)
        interrupt(slots.acquire, place)
        broken.append(slots._cond._lock.locked())
    assert any(broken)


@pytest.mark.timeout(300)
def test_an_interrupt_anywhere_is_not_lost_and_the_next_image_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_process, "_pool", decoder_process._Pool())
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    open_image(path)
    places, _ = interrupt(lambda: open_image(path), 0)
    for place in np.linspace(1, places - 4, 2 * KILLS).astype(int):  # the last few stop the watching
        assert interrupt(lambda: open_image(path), place)[1], place
        assert open_image(path).size_wh == (96, 64)
    assert len(decoder_ids()) <= decoder_process.PROCESSES, "hardly any is left behind"
    for decoder in list(decoder_process._pool.decoders):
        decoder.stop()


@pytest.mark.timeout(60)
def test_a_process_is_stopped_whatever_lock_an_interrupt_left_taken(tmp_path, monkeypatch):
    """`Popen.poll` takes a lock, and an interrupt right behind that leaves it taken: `wait` never ended."""
    monkeypatch.setattr(decoder_process, "_pool", decoder_process._Pool())
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    open_image(path)
    (decoder,) = decoder_process._pool.decoders
    assert decoder._process._waitpid_lock.acquire(timeout=1)
    decoder.stop()
    assert open_image(path).size_wh == (96, 64)
    decoder._process._waitpid_lock.release()
    assert decoder._process.wait(10) == -signal.SIGKILL
    for other in list(decoder_process._pool.decoders):
        other.stop()


@posix
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_decoder_outlives_its_process(ending, tmp_path):
    path = saved(tmp_path, encoded(drawn((900, 700)), "PNG"))
    code = f"""
import os, sys, time
from anomalyr1.images.door import open_image
from anomalyr1.images.decoder_process import _pool
open_image(sys.argv[1])
print(*[decoder._process.pid for decoder in _pool.decoders], flush=True)
{ENDINGS[ending]}
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        decoders = [int(word) for word in process.stdout.readline().split()]
        assert len(decoders) == 1
        time.sleep(0.1)
        if ending == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        elif ending != "exit":
            process.kill()
        try:
            process.wait(60)
            for _ in range(100):
                if not is_running(decoders[0]):
                    break
                time.sleep(0.1)
            assert not is_running(decoders[0])
        finally:
            os_kill_group(process.pid)
        errors = process.stderr.read()
    assert errors.count("Traceback") == (ending == "SIGINT"), errors
    assert ("KeyboardInterrupt" in errors) == (ending == "SIGINT")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def os_kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_files_of_the_working_folder_are_not_run(tmp_path):
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    (tmp_path / "PIL.py").write_text("raise SystemExit('run')")
    code = "import sys; from anomalyr1.images.door import open_image; print(open_image(sys.argv[1]).size_wh)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "(96, 64)\n", done.stderr


def test_without_a_process_it_is_the_setup(tmp_path, monkeypatch):
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    monkeypatch.setattr(decoder_process, "_pool", decoder_process._Pool())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(SetupError, match="cannot start the process that decodes images"):
        open_image(path)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    if Path("/bin/true").exists():
        with pytest.raises(SetupError, match="did not start"):
            open_image(path)


# --- memory


def test_the_budget_is_of_pixels():
    budget, at_work, most = Budget(100), [], []

    def work(pixels: int) -> None:
        with budget.hold(pixels):
            at_work.append(pixels)
            most.append(sum(at_work))
            time.sleep(0.002)
            at_work.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 60, 30, 10, 250, 50, 60, 40] * 4))
    assert len(most) == 32
    assert max(sum_ for sum_ in most if sum_ < 250) <= 100
    assert set(most) & {250} and max(most) == 250, "more than the budget is decoded, but alone"


@linux
def test_34_bytes_of_63_million_pixels_take_12_bytes_each(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_process, "_pool", decoder_process._Pool())
    assert open_image(saved(tmp_path, HUGE_WEBP)).size_wh == (8000, 7900)
    status = Path(f"/proc/{decoder_ids()[0]}/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    now_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert 700 < peak_mb < 900
    assert now_mb < 200, "what was decoded is let go"
    for decoder in list(decoder_process._pool.decoders):
        decoder.stop()


def test_room_is_for_all_images_together(tmp_path):
    path = saved(tmp_path, encoded(drawn(), "PNG"))
    room = Room(3 * 96 * 64)
    for _ in range(3):
        open_image(path, room=room)
    with pytest.raises(ImageError, match="more than 18,432 pixels together"):
        open_image(path, room=room)
    open_image(path)
