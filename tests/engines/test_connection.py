"""Servers that mean harm, on real sockets: no key gets out, nothing hangs, no part is "good" by mistake."""

import json
import logging
import resource

from anomalyr1.engines.connection import Connection, Request
from anomalyr1.engines.endpoint import EndpointEngine
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.openai_format import ReplyError, reply_limit
from anomalyr1.engines.secret import Secret
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.types import Sample
from support import pictures, raw_server
from support.disguises import DISGUISES, KEY
from support.hostile_servers import HONEST, SERVERS
from support.raw_server import reply_of

BEARER = f"Bearer {KEY}"


def config_of(url, **more):
    fields = {"timeout_seconds": 60.0, "deadline_seconds": 120.0, "attempts": 1, "concurrency": 16} | more
    return EndpointConfig(url=url, model="m", family="qwen2_5_vl", **fields)


# The key.


def completion_of(text, finish="stop", **message):
    return {"choices": [{"message": {"content": text} | message, "finish_reason": finish}]}


def raw_json(disguise):
    """A completion whose bytes hold the disguise as it is, so that JSON undoes what is an escape."""
    return reply_of(json.dumps(completion_of("it is HERE.")).replace("HERE", disguise))


COMPLETIONS = {
    **{f"content, {name}": reply_of(completion_of(f"it is {text}.")) for name, text in DISGUISES.items()},
    **{f"bytes, {name}": raw_json(DISGUISES[name]) for name in ("an escaped hyphen", "an escaped slash")},
    "bytes, all escaped": raw_json(DISGUISES["all escaped"]),
    "reasoning": reply_of(completion_of("B", reasoning_content=KEY)),
    "reasoning by its other name": reply_of(completion_of("B", reasoning=KEY)),
    "halves over two fields": reply_of(completion_of(KEY[:13], reasoning_content=KEY[13:])),
    "parts": reply_of(completion_of([{"type": "text", "text": KEY}])),
    "a field that nobody reads": reply_of(completion_of("B") | {"model": KEY}),
    "the name of a field": reply_of(completion_of("B") | {KEY: 1}),
    "finish": reply_of(completion_of("B", finish=KEY)),
    "no JSON": reply_of(f"you sent {BEARER}"),
    "HTML": reply_of(f"<!doctype html><p>{BEARER}</p>"),
    "UTF-16 whole": reply_of(json.dumps(completion_of(KEY)).encode("utf-16")),
}
"""Replies of status 200: refused, for they hold the key."""
FAILURES = {
    "status line": f"{BEARER}\r\n\r\n".encode(),
    "version": f"HTTP/{KEY} 200 OK\r\n\r\n".encode(),
    "status": f"HTTP/1.1 {KEY} OK\r\n\r\n".encode(),
    "header without a colon": f"HTTP/1.1 200 OK\r\n{BEARER}\r\n\r\n".encode(),
    "header of a bad name": f"HTTP/1.1 200 OK\r\n{BEARER} x: y\r\n\r\n".encode(),
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode(),
    "encoding": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {KEY}\r\n\r\n".encode(),
    "chunk": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
    "redirect": reply_of("", "302 Found", f"Location: http://127.0.0.1:1/{KEY}\r\n"),
    "reason": reply_of("", f"418 {KEY}"),
    "header": reply_of("", "418 Pot", f"X-Sent: {BEARER}\r\n"),
    "retry after": reply_of("", "429 Slow", f"Retry-After: {KEY}\r\n"),
    "at the end of what is shown": reply_of("x" * 85 + KEY, "401 No"),
    **{f"401, {name}": reply_of(f"bad header {text}", "401 No") for name, text in DISGUISES.items()},
}
"""Replies that are errors, of which the message must not hold the key."""


def ask_all(url, replies):
    """The outcome of asking for each reply by its name."""
    connection = Connection(config_of(url, key_variable="TEST_KEY"))
    requests = [Request(json.dumps(name).encode()) for name in replies]
    return dict(zip(replies, connection.ask(requests, patient=False), strict=True)), connection


def answer_with(replies):
    return lambda connection, request: connection.sendall(replies[json.loads(request)])


def shows_key(text):
    """Whether a text holds the key in a form that was sent, or 12 characters of it."""
    pieces = [KEY[i : i + 12] for i in range(len(KEY) - 11)]
    return any(form in text or repr(form)[1:-1] in text for form in (*DISGUISES.values(), *pieces))


def test_the_key_gets_out_in_no_way(monkeypatch, caplog, capfd):
    monkeypatch.setenv("TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with raw_server.answering(answer_with(COMPLETIONS | FAILURES)) as url:
        outcomes, connection = ask_all(url, COMPLETIONS | FAILURES)
    assert [name for name in COMPLETIONS if outcomes[name].problem != "key in the reply"] == []
    assert [name for name in FAILURES if not isinstance(outcomes[name], ReplyError)] == []
    assert [name for name, outcome in outcomes.items() if shows_key(repr(outcome))] == []
    for outcome in outcomes.values():  # what a traceback would show
        while outcome := outcome.__cause__:
            assert not shows_key(repr(outcome))
    assert not shows_key(caplog.text + "".join(capfd.readouterr()) + repr(vars(connection)["_secret"]))


def test_without_the_guard_it_gets_out(monkeypatch):
    """The control: the same replies, and nobody who looks for the key."""
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(Secret, "is_in", lambda self, text: False)
    with raw_server.answering(answer_with(COMPLETIONS | FAILURES)) as url:
        outcomes, _ = ask_all(url, COMPLETIONS | FAILURES)
    leaks = [name for name, outcome in outcomes.items() if shows_key(repr(outcome))]
    assert len(leaks) > 30, leaks


# Everything else.


def inspect_all(servers, tmp_path, seconds):
    """The inspection of a part by each server; the part's knowledge tells the server which it is."""
    pictures.picture(1).save(tmp_path / "part.png")
    samples = [Sample(id=name, image=tmp_path / "part.png", knowledge=f"server: {name}.") for name in servers]
    with raw_server.answering(answer_as(servers)) as url:
        engine = EndpointEngine(config_of(url, timeout_seconds=seconds, concurrency=64))
        return {one.sample_id: one for one in Inspector(engine, masks="box").inspect(samples)}


def answer_as(servers):
    """Answer as the server that a prompt names; as an honest one where it is about a grey picture."""

    def answer(connection, request):
        text = request.decode()
        if "Is this grey?" in text:
            connection.sendall(raw_server.echo(request))
        else:
            name = text.partition("server: ")[2].partition(".")[0]
            servers[name](connection, request)

    return answer


def test_hostile_servers_are_never_good(tmp_path):
    inspections = inspect_all(SERVERS, tmp_path, seconds=2.5)
    assert len(SERVERS) >= 42
    assert [name for name, one in inspections.items() if one.verdict == "good"] == []
    assert all(one.error or one.reason for one in inspections.values())
    errors = [one.error for one in inspections.values() if one.error]
    assert not [error for error in errors if "Traceback" in error or len(error) > 400]


def test_honest_servers_are_good(tmp_path):
    """The control."""
    inspections = inspect_all(HONEST, tmp_path, seconds=60)
    assert {name: one.verdict for name, one in inspections.items()} == dict.fromkeys(HONEST, "good")


def test_nothing_small_becomes_large(tmp_path):
    """However much a server sends, memory holds the longest reply that was asked for, eight times."""
    greedy = {name: SERVERS[name] for name in ("endless body", "endless chunk", "gzip bomb")}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inspections = inspect_all(greedy, tmp_path, seconds=60)
    assert all(one.error for one in inspections.values())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100 * 1024  # kB


def test_a_reply_may_be_as_long_as_what_is_asked_for():
    assert reply_limit(1) == reply_limit(256) == 2**20
    assert reply_limit(4096) == 2**24
