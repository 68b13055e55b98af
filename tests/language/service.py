"""A local server with the OpenAI chat API, whose replies a test determines."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable

KEY = "sk-a-key-that-nobody-may-see"


class Service:
    """A server in a thread; ``answer`` maps the posted body to a status and a response."""

    def __init__(self) -> None:
        self.answer: Callable[[dict], tuple[int, bytes]] = lambda _: (200, b"{}")
        self.posted: list[dict] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.posted.append(posted)
                service.paths.append(self.path)
                service.keys.append(self.headers.get("Authorization"))
                status, body = service.answer(posted)
                try:
                    self.send_response(status)
                    if status in (301, 302, 307):
                        self.send_header("Location", service.url + "/elsewhere")
                    for name, value in service.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has disconnected
                    pass

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def says(self, text: object) -> None:
        self.answer = lambda _: (200, reply(text))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(text: object, finish: str = "stop", **message: object) -> bytes:
    """Return the body of a response with this text."""
    return json.dumps({"choices": [{"message": {"content": text, **message}, "finish_reason": finish}]}).encode()


def failure(message: str) -> bytes:
    """Return the body of an error response."""
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
