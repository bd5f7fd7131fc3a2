"""The HTTP server of a rank: ``/healthz``, ``/metrics``, and on rank 0 ``/progress``.

Started before anything slow is imported, so that the readiness probe passes in the first second.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Page = tuple[str, Callable[[], bytes]]
"""Content type, and what renders the body."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: dict[str, Page]

    if socket.has_dualstack_ipv6():
        address_family = socket.AF_INET6

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server: _Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404)
            return
        content_type, render = page
        body = render()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes and scrapes are no news."""


def serve(port: int, registry: CollectorRegistry, progress: Callable[[], bytes] | None) -> int:
    """Answer on ``port`` (0: any free one) from now on. Returns the port.

    Raises ``OSError`` when the port is taken.
    """
    server = _Server(("", port), _Handler)
    server.pages = {
        "/healthz": ("text/plain", lambda: b"ok\n"),
        "/metrics": (CONTENT_TYPE_LATEST, lambda: generate_latest(registry)),
    }
    if progress is not None:
        server.pages["/progress"] = ("application/json", progress)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_address[1])
