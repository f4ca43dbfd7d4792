"""A real HTTP server of OpenAI's chat completions, for tests: the nano policy or an echo, with faults.

It shares no code with the engines: nano's prompts go through transformers' own processor and `generate`. Run
it as `python served.py PORT BACKEND LOG`, or in a thread with `serving`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

HALF = b'{"id": "1", "choices": [{"index": 0, "message": {"role": "assist'


class Echo:
    """Answers A or B and draws a box, by a digest of the prompt; images cost what Qwen2.5-VL's do."""

    def __init__(self, max_pixels=10**9):
        self.max_pixels = max_pixels

    def __call__(self, body):
        from anomalyr1.images.frames import FAMILIES, fit

        text, pictures = parts_of(body)
        digest = hashlib.sha256(
            text.encode() + b"".join(picture.tobytes() for picture in pictures)
        ).hexdigest()
        answer = (
            '[{"bbox_2d": [4, 4, 40, 40], "label": "spot"}]'
            if "box" in text.splitlines()[-1]
            else "AB"[int(digest[0], 16) % 2]
        )
        sizes = [fit(picture.size, FAMILIES["qwen2_5_vl"], self.max_pixels) for picture in pictures]
        tokens = len(text.split()) + sum(w * h // 28**2 for w, h in sizes)
        return completion(f"<think>{digest[:12]}</think><answer>{answer}</answer>", tokens, 9, "stop")


class Nano:
    """The bundled policy by transformers' own ways, with log-probabilities and perhaps its own pixel cap."""

    def __init__(self, folder=None, max_pixels=None):
        import torch

        from anomalyr1.policy.load import load_policy

        torch.set_num_threads(1)
        self.policy = load_policy(str(folder) if folder else "nano", device="cpu")
        self.max_pixels = max_pixels or self.policy.max_pixels
        self.lock = threading.Lock()

    def __call__(self, body):
        import torch

        policy = self.policy
        messages = [
            {"role": message["role"], "content": as_template(message["content"])}
            for message in body["messages"]
        ]
        text = policy.processor.apply_chat_template(messages, add_generation_prompt=True)
        size = {"shortest_edge": policy.family.min_pixels, "longest_edge": self.max_pixels}
        pictures = parts_of(body)[1]
        inputs = policy.processor(text=[text], images=pictures or None, size=size, return_tensors="pt")
        with self.lock, torch.inference_mode():
            out = policy.model.generate(
                **inputs,
                max_new_tokens=body["max_tokens"],
                do_sample=False,
                suppress_tokens=list(policy.suppressed_ids),
                output_scores=True,
                return_dict_in_generate=True,
            )
        length = inputs["input_ids"].shape[1]
        ids = out.sequences[0, length:].tolist()
        stop = "stop" if ids[-1] in policy.stop_ids else "length"
        written = policy.processor.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        reply = completion(written, length, len(ids), stop)
        if body.get("logprobs"):
            reply["choices"][0]["logprobs"] = {
                "content": [self._place(*pair) for pair in zip(ids, out.scores, strict=True)]
            }
        return reply

    def _place(self, chosen, scores):
        logprobs = scores[0].log_softmax(-1)
        name = self.policy.processor.tokenizer.decode
        top = [
            {"token": name([i]), "logprob": max(-9999.0, logprobs[i].item())}
            for i in logprobs.topk(20).indices.tolist()
        ]
        return {"token": name([chosen]), "logprob": logprobs[chosen].item(), "top_logprobs": top}


def split_off(backend, field):
    """A server that moves the reasoning of another one into a field of its own, or drops it (field None)."""

    def reply(body):
        whole = backend(body)
        message = whole["choices"][0]["message"]
        reasoning, _, message["content"] = message["content"].removeprefix("<think>").partition("</think>")
        if field:
            message[field] = reasoning
        return whole

    return reply


def as_template(content):
    """The content of a message as transformers' templates take it."""
    return (
        content
        if isinstance(content, str)
        else [{**part, "type": part["type"].removesuffix("_url")} for part in content]
    )


def completion(text, prompt_tokens, completion_tokens, finish):
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }


def parts_of(body):
    """All text, and all pictures in their order."""
    texts, pictures = [], []
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                head, _, data = part["image_url"]["url"].partition(",")
                assert head == "data:image/png;base64"
                pictures.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return "\n".join(texts), pictures


def app_of(backend, faults, seen, delay=0.0):
    """`faults`: a text in a prompt -> the faults of its next requests; `seen` collects what was asked."""
    app = FastAPI()

    @app.get("/v1/models")
    def models():
        return {"object": "list", "data": [{"id": "nano"}]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request):
        body = json.loads(await request.body())
        text = parts_of(body)[0]
        key = request.headers.get("authorization", "")
        seen(text, body, key)
        for name, left in faults.items():
            if name in text and left:
                return await fault(left.pop(0), key)
        await asyncio.sleep(delay)
        return JSONResponse(await asyncio.to_thread(backend, body))

    return app


async def fault(kind, key):
    if kind == "hang":
        await asyncio.sleep(30)
    if kind == "trickle":

        async def drops():
            for _ in range(300):
                yield b" "
                await asyncio.sleep(0.1)

        from fastapi.responses import StreamingResponse

        return StreamingResponse(drops())
    if kind == "cut":  # promises more than it sends
        return Response(HALF, headers={"Content-Length": str(len(HALF) + 50)}, media_type="application/json")
    plain = {
        "html": Response("<!doctype html><title>Sign in</title>", media_type="text/html"),
        "half": Response(HALF, media_type="application/json"),
        "list": JSONResponse([1, 2]),
        "no choices": JSONResponse({"choices": []}),
        "filtered": JSONResponse(completion("no", 1, 1, "content_filter")),
        "split": JSONResponse(
            {"choices": [{"message": {"content": "", "reasoning_content": "all"}, "finish_reason": "stop"}]}
        ),
        "huge": Response(b" " * (9 * 2**20)),
        "deep": Response(b"[" * 200_000, media_type="application/json"),
        "429": Response("slow down", status_code=429, headers={"Retry-After": "0.2"}),
        "redirect": Response(status_code=307, headers={"Location": "http://127.0.0.1:1/"}),
        "echo key": JSONResponse(completion(f"your header was {key}", 1, 1, "stop")),
        "401 echo": Response(f"bad header {key}", status_code=401),
    }
    return plain.get(kind) or Response("broken", status_code=int(kind))


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


@contextlib.contextmanager
def serving(backend, faults=None, delay=0.0):
    """A server in a thread: gives its URL and the list of (text, body, authorization) of all requests."""
    seen = []
    app = app_of(backend, {} if faults is None else faults, lambda *one: seen.append(one), delay)
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 240
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}/v1", seen
    finally:
        server.should_exit = True
        thread.join(timeout=60)


class Process:
    """The server in a process of its own, which can be killed outright and started again on the same port.

    A parent without threads loads everything once and forks a server at each start, so that starting takes no
    time.
    """

    def __init__(self, backend, log):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [sys.executable, __file__, str(port), backend, str(log)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start()

    def start(self):
        self._tell("start")
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return
            time.sleep(0.02)
        raise AssertionError("the server did not start")

    def kill(self):
        self._tell("kill")

    def close(self):
        self._tell("kill")
        self._parent.stdin.close()
        self._parent.wait(timeout=120)
        self._parent.stdout.close()

    def _tell(self, word):
        self._parent.stdin.write(f"{word}\n")
        self._parent.stdin.flush()
        assert self._parent.stdout.readline() == "done\n"


def main():
    port, backend, log = sys.argv[1:]
    made = Nano() if backend == "nano" else Echo()
    child = 0
    for word in sys.stdin:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child = 0
        if word == "start\n":
            child = os.fork()
            if child == 0:
                serve(made, int(port), Path(log), 0.02 if backend == "echo" else 0.0)
                os._exit(0)
        print("done", flush=True)
    if child:
        os.kill(child, signal.SIGKILL)


def serve(backend, port, log, delay):
    with log.open("a") as file:

        def seen(text, body, key):
            file.write(json.dumps(text) + "\n")
            file.flush()

        uvicorn.run(app_of(backend, {}, seen, delay), host="127.0.0.1", port=port, log_level="critical")


if __name__ == "__main__":
    main()
