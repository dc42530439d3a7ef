"""Two servers for the tests of endpoints: a real one, and one that misbehaves as it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}Answer:"


def chat_folder(model: Path, folder: Path) -> Path:
    """A copy of a toy model with a chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RealServer:
    """``transformers serve`` on a loopback port, started and stopped by its process id."""

    model: Path
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> int:
        return self.log.read_text().count("[Request received]")

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "transformers"), "serve", str(self.model), "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                    return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.25)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        if self.process:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None


@dataclass
class Reply:
    """What the scripted server sends: status, body (JSON, or text as it is) and headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def completion(text: str | None, top: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion; ``top`` are the log-probabilities of its first token."""
    likeliest = [{"token": token, "logprob": value, "bytes": None} for token, value in (top or {}).items()]
    content = [{**likeliest[0], "top_logprobs": likeliest}] if likeliest else []
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{**choice, "logprobs": {"content": content} if top else None}],
    }


@dataclass
class ScriptedServer:
    """Answers each request with what ``answer(number, request)`` says; keeps what it was asked, and with which key."""

    url: str
    answer: Callable[[int, dict[str, Any]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def scripted(answer: Callable[[int, dict[str, Any]], Reply]) -> Iterator[ScriptedServer]:
    """Runs a scripted server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.asked)
                server.asked.append(request)
                server.keys.append(self.headers["Authorization"])
                server.times.append(time.monotonic())
            reply = server.answer(number, request)
            body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ScriptedServer(f"http://127.0.0.1:{listener.server_port}/v1", answer)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
