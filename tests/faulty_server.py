"""A web server on this machine that fails as asked, to test the downloader."""

import hashlib
import socket
import struct
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.server.owner.answer(self)

    def log_message(self, *_):
        pass

    def send(self, content: bytes, status=200, length=None, headers=()):
        """Status, headers and content; `length` is what Content-Length says, if not the truth."""
        self.send_response(status)
        self.send_header("Content-Length", len(content) if length is None else length)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def reset(self):
        """Break the connection off, so that the other side is told by an error."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.hang_up()

    def hang_up(self):
        """Close the connection after what was sent."""
        self.close_connection = True


def _whole(handler: Handler, content: bytes) -> None:
    handler.send(content)


def _dropped(handler: Handler, content: bytes) -> None:
    handler.send(content[: len(content) // 2], length=len(content))
    handler.wfile.flush()
    handler.reset()


def _truncated(handler: Handler, content: bytes) -> None:
    handler.send(content[:-1], length=len(content))
    handler.hang_up()


def _unmeasured(handler: Handler, content: bytes) -> None:
    """Cut, of a length that was never said."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])


def _chunked(handler: Handler, content: bytes) -> None:
    """Cut in the second of two chunks."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n%x\r\nx" % (1, content[:1], len(content)))
    handler.hang_up()


def _wrong(handler: Handler, content: bytes) -> None:
    handler.send(bytes([content[0] ^ 1]) + content[1:])


def _empty(handler: Handler, content: bytes) -> None:
    handler.send(b"")


def _longer(handler: Handler, content: bytes) -> None:
    handler.send(content + b"\n")


def _page(handler: Handler, content: bytes) -> None:
    handler.send(b"<html>Down for maintenance.</html>")


def _silent(handler: Handler, content: bytes) -> None:
    time.sleep(handler.server.owner.delay)
    handler.hang_up()


def _stalled(handler: Handler, content: bytes) -> None:
    handler.send(content[:1], length=len(content))
    handler.wfile.flush()
    _silent(handler, content)


def _dripping(handler: Handler, content: bytes) -> None:
    """A byte now and then, never silent for long."""
    handler.send(b"", length=len(content))
    for place in range(len(content)):
        handler.wfile.write(content[place : place + 1])
        time.sleep(handler.server.owner.delay / 10)


def _closed(handler: Handler, content: bytes) -> None:
    handler.hang_up()


def _endless(handler: Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(2**16))


def _moved(handler: Handler, content: bytes) -> None:
    handler.send(b"", 302, headers=[("Location", "/moved" + handler.path)])


def _circling(handler: Handler, content: bytes) -> None:
    handler.send(b"", 302, headers=[("Location", handler.path)])


def _status(status: int, *headers: tuple[str, str]) -> Callable:
    return lambda handler, content: handler.send(b"sorry", status, headers=headers)


ANSWERS = {
    "whole": _whole, "dropped": _dropped, "truncated": _truncated, "unmeasured": _unmeasured,
    "chunked": _chunked, "wrong": _wrong, "empty": _empty, "longer": _longer, "page": _page,
    "silent": _silent, "stalled": _stalled, "dripping": _dripping, "closed": _closed,
    "endless": _endless, "moved": _moved, "circling": _circling,
    "404": _status(404), "429": _status(429, ("Retry-After", "0")),
    "500": _status(500), "503": _status(503),
}  # fmt: skip


class Server:
    """Serves `files` (name: bytes) and their list of checksums at `url`.

    `fault(name, times)` names the entry of `ANSWERS` for the next answer, given how many there
    were for this name before. `log` holds (name, answer) of each; `delay`: seconds of silence.
    """

    def __init__(self, files: dict[str, bytes], fault=lambda name, times: "whole", delay=1.0):
        self.files, self.fault, self.delay = dict(files), fault, delay
        self.files["SHA256SUMS.txt"] = sums(files)
        self.log, self.lock = [], Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.owner = self
        self.http.handle_error = lambda *_: None  # that somebody hung up is no news
        self.url = f"http://127.0.0.1:{self.http.server_port}/files/"

    def __enter__(self) -> "Server":
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler: Handler) -> None:
        place, _, name = handler.path.partition("/files/")
        with self.lock:
            if place == "/moved":
                kind = "whole"
            elif name not in self.files:
                kind = "404"
            else:
                kind = self.fault(name, sum(name == asked for asked, _ in self.log))
            self.log.append((name, kind))
        ANSWERS[kind](handler, self.files.get(name, b""))

    def asked(self) -> list[str]:
        """Names that were asked for since this was called last, sorted."""
        with self.lock:
            names = sorted(name for name, _ in self.log)
            self.log.clear()
        return names


def sums(files: dict[str, bytes]) -> bytes:
    """SHA256SUMS.txt of `files`."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()} {name}\n" for name in sorted(files)]
    return "".join(lines).encode()
