"""A server of bare sockets, for replies that no library would send."""

import contextlib
import json
import socket
import threading

from support import served


def reply_of(body, status="200 OK", headers=""):
    """A whole HTTP reply with this body: bytes, text, or what becomes JSON."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


@contextlib.contextmanager
def answering(answer):
    """Give the URL of a server that calls `answer(connection, request)` for each request, and then hangs up.

    Each request has a thread and a connection of its own; `answer` may send for ever, until nobody reads.
    """
    stopped = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            answer(connection, _request(connection))

    def accept():
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)  # which wakes who waits in accept
        acceptor.join()
        listener.close()


def _request(connection):
    """Head and body of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65536)
    return body


def echo(request):
    """The reply of `served.Echo`, which draws images as they should be."""
    return reply_of(served.Echo()(json.loads(request)))
