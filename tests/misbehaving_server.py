"""A chat server on loopback that does what it is told: a real HTTP server in a thread, and what it was asked."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

Content = dict[str, Any]


@dataclass
class Reply:
    """What the server does with one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    drip: float = 0.0
    """Seconds between one byte of the body and the next."""
    drip_head: float = 0.0
    """Seconds between one byte of the head and the next."""


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    content: Content

    @property
    def text(self) -> str:
        """What the user says, without pictures."""
        content = self.content["messages"][-1]["content"]
        return content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")

    @property
    def pictures(self) -> list[np.ndarray]:
        """Decoded, RGB."""
        urls = [part["image_url"]["url"] for part in self.content["messages"][-1]["content"] if part["type"] == "image_url"]
        assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
        encoded = [np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8) for url in urls]
        return [cv2.imdecode(picture, cv2.IMREAD_COLOR_RGB) for picture in encoded]


class MisbehavingServer:
    """Answers request after request by `script`, a list of replies or functions of the request; then by `otherwise`."""

    def __init__(self) -> None:
        self.script: list[Reply | Callable[[Asked], Reply]] = []
        self.otherwise: Callable[[Asked], Reply] = well_behaved
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        asked = Asked(handler.path, dict(handler.headers), json.loads(raw))
        with self._lock:
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            reply = self.script.pop(0) if self.script else self.otherwise
        if not isinstance(reply, Reply):
            reply = reply(asked)
        time.sleep(reply.delay)
        with self._lock:
            self._now -= 1
        handler.close_connection = True
        try:
            handler.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), "Connection": "close", **reply.headers}.items():
                handler.send_header(name, value)
            if reply.drip_head:
                for byte in b"".join(handler._headers_buffer):  # type: ignore[attr-defined]
                    handler.wfile.write(bytes([byte]))
                    time.sleep(reply.drip_head)
                handler._headers_buffer = []  # type: ignore[attr-defined]
            handler.end_headers()
            body = reply.body if reply.cut_after is None else reply.body[: reply.cut_after]
            for number in range(len(body)) if reply.drip else ():
                handler.wfile.write(body[number : number + 1])
                time.sleep(reply.drip)
            handler.wfile.write(b"" if reply.drip else body)
            handler.wfile.flush()
        except OSError:  # the client has left
            pass


@contextmanager
def serving() -> Iterator[MisbehavingServer]:
    """A server that runs."""
    server = MisbehavingServer()
    thread = threading.Thread(target=server._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._http.shutdown()
        server._http.server_close()
        thread.join()


def says(text: Any, *, reason: str = "stop", refusal: str | None = None, **more: Any) -> Reply:
    """A chat completion. `text` is a string mostly; None or a list of parts may come, too."""
    message = {"role": "assistant", "content": text, **({"refusal": refusal} if refusal else {})}
    completion = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    return Reply(json.dumps(completion).encode(), **more)


def complains(status: int, message: str, headers: dict[str, str] | None = None, **error: Any) -> Reply:
    """An error in OpenAI's form."""
    return Reply(json.dumps({"error": {"message": message, **error}}).encode(), status, headers or {})


def event_answer(about: str) -> str:
    """A usable answer about an event."""
    keys = {key: f"{key} of {about}" for key in ("before", "interaction", "after", "text")}
    return json.dumps({**keys, "paraphrases": [f"{about} in other words {number}" for number in range(3)]})


def well_behaved(asked: Asked) -> Reply:
    """Describes an event by the brightness of its first picture; merges by counting captions."""
    if asked.content["messages"][-1]["content"].__class__ is str:
        return says(json.dumps({"text": f"{asked.text.count(chr(10)) - 1} captions in one"}))
    return says(event_answer(f"brightness {round(float(asked.pictures[0].mean()))}"))
