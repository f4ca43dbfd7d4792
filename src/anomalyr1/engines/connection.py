"""Requests to a server: bounded concurrency, deadlines, retries with jitter.

Every failure has a name, and the key is shown to nobody.

A refused connection means that the server is not there: it is tried until the deadline, and then the run
stops, to be gone on with. All other failures belong to their request: they are tried again a few times where
that may help, and then given back.

Why an asynchronous client for calls that wait: only so can a request under way be broken off, by Ctrl-C, by
the failure of another one, or by a limit on its total time. A thread that waits for a socket cannot be.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalyr1.engines import openai_format
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.openai_format import MIN_REPLY_LIMIT, ReplyError, ServerReply
from anomalyr1.engines.secret import Secret
from anomalyr1.images.frames import Frame
from anomalyr1.types import SetupError

if TYPE_CHECKING:
    import httpx
    from tenacity import AsyncRetrying, RetryCallState

_SHORTEST_WAIT, _LONGEST_WAIT, _JITTER = 0.25, 10.0, 0.5
"""Seconds between attempts: doubled each time, and so much at random on top."""
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What is sent, and what its reply is read with."""

    body: bytes
    options: tuple[str, ...] = ()
    """The options that the answer may choose from; empty where boxes are asked for."""
    frame: Frame | None = None
    """What maps the answer's boxes; None = not known how the server sees the image."""
    reply_limit: int = MIN_REPLY_LIMIT
    """Bytes of the longest reply that is taken."""


class Connection:
    """A client of one server.

    Each call of `ask` has an event loop in a thread of its own, so that it serves any thread, also one that
    runs a loop itself.
    """

    losses: int
    """How often a connection was lost or refused."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises `SetupError` when a package or the key is missing; nothing is sent yet."""
        try:
            import httpx
            import tenacity  # noqa: F401 - looked for here, so that it is not missed in the middle of a run
        except ImportError as error:
            raise SetupError(
                f'{error.name} is missing: pip install ".[endpoint]" in the checkout of anomalyr1'
            ) from error
        self.losses = 0
        self._config = config
        self._key = config.key()
        self._secret = Secret(self._key)
        self._certificates = httpx.create_ssl_context()
        for name in ("httpx", "httpcore"):  # they log headers and what a server calls its status
            logging.getLogger(name).setLevel(logging.WARNING)
        self._lock = threading.Lock()  # the bound on concurrency holds for all threads together

    def ask(self, requests: Sequence[Request], patient: bool = True) -> list[ServerReply | ReplyError]:
        """The reply to each request, or why there is none, in their order; an interrupt breaks all off.

        Raises `SetupError` when the server cannot be reached: before the deadline when `patient`, else at
        once after all attempts.
        """
        from anyio.from_thread import start_blocking_portal

        with self._lock, start_blocking_portal() as portal:
            return portal.call(self._answer_all, requests, patient)

    async def _answer_all(self, requests: Sequence[Request], patient: bool) -> list[ServerReply | ReplyError]:
        """Answer all requests at a time, as many as `concurrency` allows."""
        gate = asyncio.Semaphore(self._config.concurrency)
        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                answers = [self._answer(client, gate, request, patient) for request in requests]
                tasks = [group.create_task(answer) for answer in answers]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def _client(self) -> httpx.AsyncClient:
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # the whole request has a limit of its own
            limits=httpx.Limits(max_connections=self._config.concurrency),
            trust_env=self._config.environment_proxy,
            verify=self._certificates,
        )

    async def _answer(
        self, client: httpx.AsyncClient, gate: asyncio.Semaphore, request: Request, patient: bool
    ) -> ServerReply | ReplyError:
        """One request with all its attempts, within the deadline. Raises `SetupError` when nobody answers."""
        seconds, failures = self._config.deadline_seconds, list[ReplyError]()
        try:
            async with gate, asyncio.timeout(seconds):
                reply: ServerReply = await self._retrying(patient, failures)(self._post, client, request)
                return reply
        except TimeoutError:
            failure = failures[-1] if failures else ReplyError("deadline", "nothing came")
            outcome = ReplyError("deadline", f"no answer within {seconds:g} s; the last attempt: {failure}")
        except ReplyError as error:
            failure = outcome = error
        if failure.problem != "no connection":
            return outcome
        raise SetupError(
            f"nobody answers at {self._config.url} ({failure}); start the server or correct the url. "
            "What is done is kept, run the same command again to go on"
        )

    def _retrying(self, patient: bool, failures: list[ReplyError]) -> AsyncRetrying:
        """What repeats attempts while that may help, and notes in `failures` what each failed with.

        When `patient`, refused connections do not count as attempts: only the deadline ends them.
        """
        from tenacity import AsyncRetrying, retry_if_exception, wait_exponential, wait_random

        growing_wait = wait_exponential(multiplier=_SHORTEST_WAIT, max=_LONGEST_WAIT) + wait_random(
            0, _JITTER
        )

        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, ReplyError):
                failures.append(error)

        def is_enough(_: RetryCallState) -> bool:
            refused = sum(failure.problem == "no connection" for failure in failures) if patient else 0
            return len(failures) - refused >= self._config.attempts

        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ReplyError) and error.passing),
            after=note,
            wait=lambda state: max(growing_wait(state), failures[-1].retry_after),
            stop=is_enough,
            reraise=True,
        )

    async def _post(self, client: httpx.AsyncClient, request: Request) -> ServerReply:
        """One attempt. Raises `ReplyError`; nothing that leaves here holds the key."""
        import httpx

        seconds = self._config.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                status, data, retry_after = await self._exchange(client, request)
        except TimeoutError as error:
            raise ReplyError("deadline", f"no whole reply within {seconds:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.losses += 1
            reason = self._secret.redact(str(error)) or "no connection could be made"
            raise ReplyError("no connection", reason) from None
        except (httpx.RequestError, httpx.StreamError) as error:
            self.losses += 1
            # Its name alone: its text repeats what the server sent.
            raise ReplyError("connection lost", type(error).__name__) from None
        text = data.decode("utf-8", "replace")
        if status != httpx.codes.OK:
            raise openai_format.status_error(status, self._secret.redact(text), retry_after)
        if self._secret.is_in(text):
            raise ReplyError(
                "key in the reply", "the server sent the key back; change the key, and do not use this server"
            )
        return openai_format.read_reply(data, request.options, request.frame)

    async def _exchange(self, client: httpx.AsyncClient, request: Request) -> tuple[int, bytes, str]:
        """Status, body and Retry-After of one reply; redirects are not followed."""
        data = bytearray()
        url = f"{self._config.url}/chat/completions"
        async with client.stream("POST", url, content=request.body) as response:
            async for chunk in response.aiter_raw():  # raw: nothing small is unpacked and becomes large
                data += chunk
                if len(data) > request.reply_limit:
                    raise ReplyError("too long", f"a reply of more than {request.reply_limit:,} bytes")
        return response.status_code, bytes(data), response.headers.get("Retry-After", "")
