"""A real HTTP server on this machine that serves a folder, also in part, and fails on command."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Site:
    """What is served, and how."""

    folder: Path
    url: str = ""
    ignores_ranges: bool = False
    """Whether every answer is the whole file."""
    dies: bool = False
    """Whether answers end in the middle."""
    good_gets: int | None = None
    """After so many answers with a body it dies."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and asked-for range of each."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Site]:
    """The folder at `site.url`, until the end of the block."""
    site = Site(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            asked = self.headers.get("Range")
            site.requests.append((self.command, self.path, asked))
            path = site.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            start, end = 0, len(content)
            parts = None if site.ignores_ranges else re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
            if parts:
                start, end = int(parts[1]), min(int(parts[2] or len(content)) + 1, len(content))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if parts else 200)
            if parts:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            if not site.ignores_ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if with_body and site.good_gets is not None:
                site.good_gets -= 1
                site.dies = site.good_gets < 0
            if with_body and site.dies:
                self.wfile.write(content[start : (start + end) // 2])
                self.close_connection = True
            elif with_body:
                self.wfile.write(content[start:end])

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that leave

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
