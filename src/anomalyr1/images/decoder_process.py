"""The processes that decode, and both ends of the pipe to them.

A process decodes image after image, is started when it is first needed, and ends with the one that started
it. What happens in it (a crash, memory or time without end) costs that process and is the error of one image.

For each image go in: the length of a JSON object (4 bytes), the object, the bytes of the file; come out: the
same with the number of pixels, and when these are granted (one byte in), with what the file said and then
the rows of the picture, 3 bytes a pixel. In place of either comes a refusal.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from anomalyr1.errors import SetupError
from anomalyr1.images.file_structure import EXPECTED, REMEDY, Refusal, webp_size

if TYPE_CHECKING:
    from PIL import Image

    from anomalyr1.images.decoding import Decoded

PROCESSES = 4
"""How many processes decode at a time."""
PIXELS_IN_WORK = 64_000_000
"""How many pixels they decode at a time, all together."""
UNASKED_PIXELS = 4_000_000
"""Smaller images are decoded without waiting for that."""

_BASE_BYTES = 2**29
"""Address space for what a decoder needs beside the file and its pixels."""
_BYTES_A_PIXEL = 16
"""Ceiling of address space; a WebP and a progressive CMYK JPEG take 12 of it."""
_WEBP_BYTES_A_PIXEL = 8
"""What the decoder of WebP takes of it when it is made."""
_PATIENCE = 6
"""How many times the processor time a decoder may take by the clock: others want the processor, too."""
_LAST_SECONDS = 2.0
"""How long the end of a killed process is waited for; the system cleans up what is left."""
_STRIP_BYTES = 2**22
"""What is sent of a picture at a time."""
_LONGEST_LINE = 2**16
_READY, _GO = b"R", b"G"


class Ceilings(NamedTuple):
    """What an image may cost; the fields are those of `door.Limits`."""

    max_pixels: int
    max_aspect: float
    max_seconds: float


Grant = Callable[[int], contextlib.AbstractContextManager[None]]


class Budget:
    """How much all threads together may have at a time: processes, or pixels that are decoded.

    Ctrl-C raises `KeyboardInterrupt` wherever the main thread is. So the lock is entered itself, which cannot
    be interrupted between taking and keeping it, as a `Condition` or a `Semaphore` can.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until so much is free, and keep it; what is beyond the budget is had alone."""
        amount, kept = min(amount, self._total), 0
        try:
            with self._lock:
                while self._free < amount:
                    self._changed.wait()
                self._free -= amount
                kept = amount
            yield
        finally:
            with self._lock:
                self._free += kept
                self._changed.notify_all()


class Decoder:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        """Raises `SetupError` when it cannot be started."""
        path = [str(folder) for folder in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from {__name__} import serve; serve()"
        try:
            # -P: the working folder holds images, and may hold a PIL.py. A session of its own: no Ctrl-C.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SetupError(f"cannot start the process that decodes images: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._is_stopped = False
        self._strip = bytearray(_STRIP_BYTES)  # memory that is there already costs no time
        self._to, self._from = self._process.stdin, self._process.stdout
        _widen(self._to, self._from)
        self._is_late = False
        self._deadlines: SimpleQueue[float | None] = SimpleQueue()
        if self._from.read(1) != _READY:
            self.stop()
            raise SetupError(
                "the process that decodes images did not start; "
                f"see what `{sys.executable} -c 'import anomalyr1.images.decoding'` says"
            )
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return not self._is_stopped and self._process.poll() is None

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._is_stopped = True
        self._process.kill()
        # An interrupt may have left the lock inside `poll` taken: to wait without an end would be for ever.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_SECONDS)
        self._close()

    def forget(self) -> None:
        """Let go of a process that belongs to the process we were forked from."""
        self._process.returncode = 0
        self._close()

    def _watch(self) -> None:
        """Kill the process at the deadline that was set, unless another or none is set before."""
        deadline: float | None = None
        while deadline != math.inf:
            try:
                deadline = self._deadlines.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
            except Empty:
                self._is_late = True
                self._process.kill()
                return

    def _close(self) -> None:
        self._deadlines.put(math.inf)
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()

    def decode(self, data: bytes, limits: Ceilings, grant: Grant) -> tuple[dict[str, Any], Image.Image]:
        """The picture in the bytes of a file, and what the file said about it.

        `grant(n)` is entered before n pixels are decoded, and left when they are here. Raises `Refusal`;
        where the reason is no refusal of the decoder, its process has ended.
        """
        try:
            with self._deadline(limits.max_seconds):
                _send(self._to, {**limits._asdict(), "length": len(data)}, data)
                answer = self._answer()
                if "size_wh" in answer:
                    return self._receive_picture(answer, limits.max_pixels)
            with grant(answer["pixels"]), self._deadline(limits.max_seconds):
                _write(self._to, _GO)
                return self._receive_picture(self._answer(), limits.max_pixels)
        except Refusal:
            raise
        except BaseException:  # an interrupt: what is in the pipe belongs to no image
            self.stop()
            raise

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Kill the process when the block takes too long; `Refusal` where it dies in the block."""
        self._deadlines.put(time.monotonic() + seconds * _PATIENCE)
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            code = self._process.returncode
            code = -getattr(signal, "SIGKILL", 9) if code is None else code  # what `stop` did
            if self._is_late or code == -getattr(signal, "SIGXCPU", 0):
                raise Refusal(EXPECTED, f"one that takes longer than {seconds:g} s", REMEDY) from error
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            remedy = f"try again; if it dies again, {REMEDY}"
            raise Refusal("an image", f"one whose decoder died ({how})", remedy) from error
        finally:
            self._deadlines.put(None)

    def _answer(self) -> dict[str, Any]:
        answer = _receive(self._from)
        if "refusal" in answer:
            raise Refusal(*answer["refusal"])
        return answer

    def _receive_picture(self, facts: dict[str, Any], max_pixels: int) -> tuple[dict[str, Any], Image.Image]:
        """What the file said, and its picture in strips, so that the rows are in memory once."""
        from PIL import Image

        width, height = facts.pop("size_wh")
        if width * height > max_pixels:  # a decoder that a file has taken over may say anything
            raise ValueError("more pixels than may be")
        strips = _strips(width, height)
        _read(self._from, len(f"P6\n{width} {height}\n255\n"))
        picture = Image.new("RGB", (width, height)) if len(strips) > 1 else None
        for top, rows in strips:
            size = 3 * width * rows
            if size > len(self._strip):  # a single row, longer than Pillow's own limits let pass
                self._strip = bytearray(size)
            _read_into(self._from, memoryview(self._strip)[:size])
            strip = Image.frombuffer("RGB", (width, rows), self._strip, "raw", "RGB", 0, 1)  # copies
            if picture is None:
                return facts, strip
            picture.paste(strip, (0, top))
        assert picture is not None
        return facts, picture


class _Pool:
    """The decoders of this process, and what they may do at a time."""

    def __init__(self) -> None:
        self._slots = Budget(PROCESSES)
        self._idle: list[Decoder] = []
        self.decoders: set[Decoder] = set()
        self.pixels = Budget(PIXELS_IN_WORK)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Decoder]:
        """A decoder that nobody else uses; waits for one."""
        with self._slots.hold(1):
            decoder = self._take()
            try:
                yield decoder
            finally:
                self._idle.append(decoder)  # at once; whether it lives is looked at when it is next needed

    def _take(self) -> Decoder:
        while self._idle:
            decoder = self._idle.pop()
            if decoder.is_alive:
                return decoder
            decoder.stop()
            self.decoders.discard(decoder)
        decoder = Decoder()
        self.decoders.add(decoder)
        return decoder


_pool = _Pool()


def decode_elsewhere(
    data: bytes, limits: Ceilings, reserve: Callable[[int], None]
) -> tuple[dict[str, Any], Image.Image]:
    """The picture in the bytes of an image file, and what the file said about it, decoded by another process.

    `reserve` is called with the number of pixels, before they are decoded where they are many, and may
    raise. Raises `Refusal` for
    what cannot be decoded within the limits, `SetupError` where no process can be started.
    """
    pool = _pool

    @contextlib.contextmanager
    def grant(pixels: int) -> Iterator[None]:
        reserve(pixels)
        with pool.pixels.hold(pixels):
            yield

    with pool.lend() as decoder:
        facts, rgb = decoder.decode(data, limits, grant)
    pixels = rgb.width * rgb.height
    if pixels <= UNASKED_PIXELS:
        reserve(pixels)
    return facts, rgb


@atexit.register
def _stop_all() -> None:
    for decoder in list(_pool.decoders):
        decoder.stop()


def _forget_all() -> None:
    """In a process that was forked: the decoders belong to the one it came from."""
    global _pool
    for decoder in _pool.decoders:
        decoder.forget()
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def serve() -> None:
    """Decode what comes, until nothing comes any more: what the process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming, outgoing = os.fdopen(0, "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library may print
    _write(outgoing, _READY)
    with contextlib.suppress(EOFError, OSError):  # whom we work for has gone
        while True:
            try:
                picture = _decode_next(incoming, outgoing)
            except Refusal as refusal:
                _send(outgoing, {"refusal": [refusal.expected, refusal.actual, refusal.remedy]})
            else:
                _send_picture(outgoing, picture)
                del picture


def _decode_next(incoming: IO[bytes], outgoing: IO[bytes]) -> Decoded:
    from anomalyr1.images.decoding import decode, opened

    request = _receive(incoming)
    data = bytes(_read(incoming, request["length"]))
    _limit(request["max_seconds"], 4 * len(data) + _WEBP_BYTES_A_PIXEL * math.prod(webp_size(data)))
    with opened(data, request["max_pixels"], request["max_aspect"]) as image:
        pixels = image.width * image.height
        if pixels > UNASKED_PIXELS:
            _send(outgoing, {"pixels": pixels})
            _read(incoming, len(_GO))
        _limit(request["max_seconds"], 4 * len(data) + _BYTES_A_PIXEL * pixels)
        return decode(image)


def _limit(seconds: float, size: int) -> None:
    """Let the system end this process after some more processor time, and refuse it more memory."""
    try:
        import resource
    except ImportError:  # Windows: the clock of the parent process remains
        return
    cpu_seconds = math.ceil(time.process_time() + seconds)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, _address_space() + _BASE_BYTES + size),
    ):
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(ValueError, OSError):  # not on every system, or the user's own is lower
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@cache
def _address_space() -> int:
    """The bytes of address space that this process had before its first image; 0 where nothing says so."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _send_picture(outgoing: IO[bytes], picture: Decoded) -> None:
    rgb = picture.rgb
    _send(outgoing, {**picture._asdict(), "rgb": None, "size_wh": rgb.size})
    rgb.save(outgoing, "PPM")  # the quickest way out of Pillow: no copy is made


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    """The top row and the number of rows of the strips in which a picture is sent."""
    step = max(1, _STRIP_BYTES // (3 * width))
    return [(top, min(step, height - top)) for top in range(0, height, step)]


def _send(pipe: IO[bytes], content: dict[str, Any], data: bytes = b"") -> None:
    line = json.dumps(content).encode()
    _write(pipe, struct.pack("<I", len(line)) + line)
    _write(pipe, data)


def _receive(pipe: IO[bytes]) -> dict[str, Any]:
    length = struct.unpack("<I", _read(pipe, 4))[0]
    if length > _LONGEST_LINE:
        raise ValueError("a longer answer than may be")
    content: dict[str, Any] = json.loads(_read(pipe, length))
    return content


def _write(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


def _read(pipe: IO[bytes], size: int) -> bytearray:
    """So many bytes. Raises `EOFError` where there are fewer."""
    data = bytearray(size)
    _read_into(pipe, memoryview(data))
    return data


def _read_into(pipe: IO[bytes], view: memoryview) -> None:
    while view:
        count = pipe.readinto(view)  # type: ignore[attr-defined]  # pipes have it
        if not count:
            raise EOFError
        view = view[count:]


def _widen(*pipes: IO[bytes]) -> None:
    """Let pipes hold more, where the system can: fewer changes between the processes."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in pipes:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
