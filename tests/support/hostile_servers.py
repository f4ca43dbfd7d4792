"""Servers that mean harm: name -> a function of (connection, request) that replies, maybe for ever."""

import gzip
import json
import time

from support.raw_server import reply_of

VERDICT = "<think>The surface is even. There is no defect. So the answer is B.</think><answer>B</answer>"
BOXES = "<think>The surface is even. There is no defect.</think><answer>[]</answer>"


def good_reply(request, **change):
    """What an honest server says about a good part; `change` is made to its message."""
    asked = json.loads(request)["messages"][-1]["content"]
    text = VERDICT if "\nA. " in json.dumps(asked).replace("\\n", "\n") else BOXES
    message = {"role": "assistant", "content": text} | change
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 20},
    }


def sends(data, forever=b"", every=0.0):
    """Send `data`, then `forever` again and again."""

    def answer(connection, request):
        connection.sendall(data(request) if callable(data) else data)
        while forever:
            connection.sendall(forever)
            time.sleep(every)

    return answer


def _with(change):
    """A good reply to which `change` was done, or what `change` gives back."""

    def data(request):
        reply = good_reply(request)
        return reply_of(change(reply) or reply)

    return sends(data)


def _message(**change):
    return sends(lambda request: reply_of(good_reply(request, **change)))


def _choice(**change):
    return _with(lambda reply: reply["choices"][0].update(change))


def _usage(**change):
    return _with(lambda reply: reply["usage"].update(change))


def _raw(change):
    """A good reply of which the bytes of the body were changed."""
    return sends(lambda request: reply_of(change(json.dumps(good_reply(request)).encode())))


def _status(status, headers=""):
    return sends(lambda request: reply_of(good_reply(request), status, headers))


def _logprobs(logprob):
    place = {"token": "x", "logprob": logprob, "top_logprobs": [{"token": "A", "logprob": logprob}]}
    return _choice(logprobs={"content": [place]})


def _silent(connection, request):
    time.sleep(5)


HEAD = b"HTTP/1.1 200 OK\r\n"
PACKED = "Content-Encoding: gzip\r\n"
MEGABYTE = b" " * 2**20
SERVERS = {
    # Transport.
    "endless body": sends(HEAD + b"\r\n", MEGABYTE),
    "endless chunks": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b" " * 1024 + b"\r\n"),
    "promised terabyte": sends(HEAD + b"Content-Length: 1099511627776\r\n\r\n", MEGABYTE),
    "endless headers": sends(HEAD, b"X: y\r\n" * 1000),
    "endless header": sends(HEAD + b"X: ", b"y" * 65536),
    "endless status": sends(b"HTTP/1.1 200 ", b"y" * 65536),
    "endless 1xx": sends(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "drip": sends(HEAD + b"Content-Length: 100000\r\n\r\n", b" ", 0.05),
    "drip of headers": sends(HEAD, b"X: y\r\n", 0.05),
    "silence": _silent,
    "hangs up": sends(b""),
    "hangs up in the middle": _raw(lambda body: body[: len(body) // 2]),
    "less than promised": sends(lambda r: reply_of(good_reply(r)).replace(b"Length: ", b"Length: 9")),
    "no HTTP": sends(lambda r: json.dumps(good_reply(r)).encode()),
    "HTTP/2": sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256))),
    "negative length": sends(HEAD + b"Content-Length: -5\r\n\r\n{}"),
    "two lengths": sends(HEAD + b"Content-Length: 5\r\nContent-Length: 900\r\n\r\n{}"),
    "no chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "endless chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", MEGABYTE),
    "gzip bomb": sends(reply_of(gzip.compress(b" " * 2**24), headers="Content-Encoding: gzip\r\n")),
    "packed": sends(lambda r: reply_of(gzip.compress(json.dumps(good_reply(r)).encode()), headers=PACKED)),
    "redirect": _status("302 Found", "Location: http://127.0.0.1:1/canary\r\n"),
    "redirect to itself": _status("307 Again", "Location: /v1/chat/completions\r\n"),
    "created": _status("201 Created"),
    "partial": _status("206 Partial"),
    "error": _status("500 Broken"),
    "waits for ever": _status("429 Slow", "Retry-After: 1e9\r\n"),
    "no such status": _status("999 What"),
    # Form.
    "HTML": sends(reply_of("<!doctype html><title>Sign in</title>")),
    "stream": sends(lambda r: reply_of("data: " + json.dumps(good_reply(r)) + "\n\ndata: [DONE]\n\n")),
    "list": sends(reply_of([1])),
    "null": sends(reply_of(None)),
    "text": sends(reply_of("true")),
    "empty": sends(reply_of(b"")),
    "deep": sends(reply_of(b"[" * 200_000)),
    "deep objects": sends(reply_of(b'{"a":' * 100_000)),
    "two replies": _raw(lambda body: body + body),
    "garbage behind": _raw(lambda body: body + b"\0"),
    "UTF-16": _raw(lambda body: body.decode().encode("utf-16")),
    "no UTF-8": _raw(lambda body: body.replace(b"even", b"\xff\xfe")),
    "lone surrogate": _raw(lambda body: body.replace(b"even", b"\\ud800")),
    "endless number": _raw(lambda body: body.replace(b"300", b"3" * 100_000)),
    "error of 200": sends(reply_of({"error": {"message": "no", "code": 500}})),
    "no choices": _with(lambda reply: reply.update(choices=[])),
    "choices null": _with(lambda reply: reply.update(choices=None)),
    "choices an object": _with(lambda reply: reply.update(choices={"0": reply["choices"][0]})),
    "two choices": _with(lambda reply: reply.update(choices=reply["choices"] * 2)),
    "message null": _choice(message=None),
    "content null": _message(content=None),
    "content a number": _message(content=5),
    "content an object": _message(content={"text": VERDICT}),
    "content an image": _message(
        content=[{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]
    ),
    "content empty": _message(content=""),
    "content of NUL": _message(content="\0" * 1000),
    "content long": _message(content="<think>" * 100_000),
    "reasoning a number": _message(reasoning_content=5),
    "finish null": _choice(finish_reason=None),
    "finish a list": _choice(finish_reason=["stop"]),
    "filtered": _choice(finish_reason="content_filter"),
    "cut off": _choice(finish_reason="length"),
    "tool call": _choice(finish_reason="tool_calls"),
    "tool call beside": _message(tool_calls=[{"id": "1", "function": {"name": "rm", "arguments": "{}"}}]),
    "refusal": _message(refusal="I cannot judge this."),
    "negative usage": _usage(prompt_tokens=-5),
    "huge usage": _usage(prompt_tokens=10**400),
    "usage of words": _usage(completion_tokens="many"),
    "usage a list": _with(lambda reply: reply.update(usage=[1])),
    "logprobs of words": _logprobs("likely"),
    "logprobs null": _choice(logprobs={"content": [None]}),
    # What is said.
    "answer to the other question": _message(content=BOXES),
    "answer to no question": _message(content="The weather is fine."),
    "prompt sent back": sends(
        lambda r: reply_of(good_reply(r, content=json.dumps(json.loads(r)["messages"])))
    ),
    "reasoning beside finds a defect": _message(
        content="<answer>B</answer>", reasoning_content="There is a crack."
    ),
    "another reasoning beside": _message(reasoning="There is a crack. So the answer is A."),
}
"""None may be "good"."""
HONEST = {
    "honest": _with(lambda reply: None),
    "1xx before": sends(lambda r: b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + reply_of(good_reply(r))),
    "parts": _with(
        lambda reply: reply["choices"][0]["message"].update(
            content=[{"type": "text", "text": reply["choices"][0]["message"]["content"]}]
        )
    ),
    "logprobs that say nothing": _logprobs(float("nan")),
    "logprobs beyond all": _logprobs(1e308),
}
"""These are "good": the control."""
