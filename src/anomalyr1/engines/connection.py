"""Requests to a server: bounded concurrency, deadlines, retries with jitter. What fails has a name; the key is shown to nobody.

A refused connection means that the server is not there: it is tried until the deadline, and then the run
stops, to be gone on with. All other failures belong to their request: they are tried again a few times where
that may help, and then given back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from anomalyr1.engines import openai_format as wire
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.openai_format import ReplyError, Written
from anomalyr1.types import SetupError

if TYPE_CHECKING:
    import httpx
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")

_SECRET_LENGTH = 16
"""Shorter keys, such as "EMPTY", are no secrets, and a reply may hold them as a word."""
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.25, 10.0, 0.5
"""Seconds between attempts: doubled each time, and so much at random on top."""
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What is sent, and the options that its answer may choose from."""

    body: bytes
    options: tuple[str, ...] = ()


class Connection:
    """A client of one server, with an event loop of its own, so that it serves any thread, also one that runs a loop itself."""

    losses: int
    """How often a connection was lost or refused."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises `SetupError` when a package or the key is missing; nothing is sent yet."""
        try:
            import httpx
            import tenacity  # noqa: F401 - looked for here, so that it is not missed in the middle of a run
        except ImportError as error:
            raise SetupError(f'{error.name} is missing: pip install "anomalyr1[endpoint]"') from error
        self.losses = 0
        self._config = config
        self._key = config.key()
        self._url = f"{config.url}/chat/completions"
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Semaphore(config.concurrency)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._client = httpx.AsyncClient(
            headers=headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # the whole request has a limit of its own
            limits=httpx.Limits(max_connections=config.concurrency),
            trust_env=not _is_loopback(config.url),  # a proxy is for the world outside
        )
        threading.Thread(target=_serve, args=(self._loop,), name="anomalyr1-endpoint", daemon=True).start()
        self._finish = weakref.finalize(self, _close, self._loop, self._client)

    def close(self) -> None:
        """Close the client and its loop; harmless when done twice."""
        self._finish()

    def ask(self, requests: Sequence[Request], patient: bool = True) -> list[Written | ReplyError]:
        """What was written to each request, or why there is nothing, in their order.

        Raises `SetupError` when the server cannot be reached: before the deadline when `patient`, else at
        once after all attempts.
        """
        return self._run(self._all(requests, patient))

    def _run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine on the loop; an interrupt stops it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _all(self, requests: Sequence[Request], patient: bool) -> list[Written | ReplyError]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(request, patient)) for request in requests]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, request: Request, patient: bool) -> Written | ReplyError:
        seconds, last = self._config.deadline_seconds, ReplyError("deadline", "nothing came")
        async with self._gate:
            try:
                async with asyncio.timeout(seconds):
                    async for attempt in self._attempts(patient):
                        with attempt:
                            try:
                                return await self._post(request)
                            except ReplyError as error:
                                last = error
                                raise
            except TimeoutError:
                if last.problem != "no connection":
                    return ReplyError("deadline", f"no answer within {seconds:g} s; the last attempt: {last}")
            except ReplyError as error:
                if error.problem != "no connection":
                    return error
        raise SetupError(
            f"nobody answers at {self._config.url} ({last}); start the server or correct the url. What is done is kept, run the same "
            "command again to go on"
        )

    def _attempts(self, patient: bool) -> AsyncRetrying:
        from tenacity import AsyncRetrying, retry_if_exception, wait_exponential, wait_random

        growing = wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT) + wait_random(0, _JITTER)
        counted = 0

        def stop(state: RetryCallState) -> bool:
            nonlocal counted
            counted += not (patient and _failure(state).problem == "no connection")
            return counted >= self._config.attempts

        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ReplyError) and error.passing),
            wait=lambda state: max(growing(state), _failure(state).retry_after),
            stop=stop,
            reraise=True,
        )

    async def _post(self, request: Request) -> Written:
        """One attempt. Raises `ReplyError`."""
        import httpx

        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                status, data, retry_after = await self._exchange(request.body)
        except TimeoutError as error:
            raise ReplyError(
                "deadline", f"no whole reply within {self._config.timeout_seconds:g} s"
            ) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.losses += 1
            raise ReplyError("no connection", str(error) or "no connection could be made") from error
        except (httpx.RequestError, httpx.StreamError) as error:
            self.losses += 1
            raise ReplyError("connection lost", f"{type(error).__name__} {error}".strip()) from error
        key = self._key.encode("ascii")
        if status != httpx.codes.OK:
            raise wire.status_error(status, data.replace(key, b"[key]") if key else data, retry_after)
        if len(self._key) >= _SECRET_LENGTH and key in data:
            raise ReplyError(
                "key in the reply", "the server sent the key back; change the key, and do not use this server"
            )
        return wire.read(data, request.options)

    async def _exchange(self, body: bytes) -> tuple[int, bytes, str]:
        """Status, body and Retry-After of one reply; redirects are not followed."""
        data = bytearray()
        async with self._client.stream("POST", self._url, content=body) as response:
            async for (
                chunk
            ) in response.aiter_raw():  # raw: nothing is unpacked, so nothing small becomes large
                data += chunk
                if len(data) > wire.MAX_REPLY_BYTES:
                    raise ReplyError("too long", f"a reply of more than {wire.MAX_REPLY_BYTES:,} bytes")
        return response.status_code, bytes(data), response.headers.get("Retry-After", "")


def _failure(state: RetryCallState) -> ReplyError:
    """What the last attempt failed with."""
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, ReplyError) else ReplyError("connection lost", repr(error))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _close(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """Close the client, then end its loop, without waiting: the garbage collector may call this in the loop's own thread."""
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(_shut(loop, client), loop)


async def _shut(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    try:
        await client.aclose()
    finally:
        loop.stop()
