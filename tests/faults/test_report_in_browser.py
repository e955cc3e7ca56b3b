"""Fault row 28: hostile names and labels in the report are shown as text, by a real browser, and nothing runs.

The browser opens a report full of payloads: every one that ran would change the document's title and its body's id,
or call at a local server. The same payloads on a page without protection do all three, so the checks can fail.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image
from support.synthetic_run import write_run
from support.tiny import tiny_config

from cfvid.artifacts import read_json, write_json
from cfvid.data.manifest import Sample, from_samples
from cfvid.data.skips import Skip
from cfvid.report.stage import report
from cfvid.stages import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=2000",
    "--dump-dom",
)
BIDI = "\u202egnp.exe\u2066\u2069"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")


class Server:
    """Counts the requests that reach it on 127.0.0.1."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        paths = self.paths

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def payloads(address: str) -> list[str]:
    """Texts that do harm where they are taken for more than text; one for each way into a page."""
    act = "document.title='RAN';document.body.id='RAN'"
    return [
        f"<script>{act}</script>",
        f"</title></style></pre><script>{act}</script>",
        f"<img src={address}/img>",
        f'<img src=x onerror="{act}">',
        f'"><svg onload="{act}">',
        f"' onmouseover='{act}' x='",
        f"<link rel=stylesheet href={address}/css>",
        f"<style>@import '{address}/import';*{{display:none}}</style>",
        f"<iframe src={address}/frame></iframe>",
        f"<object data={address}/object></object>",
        f"<meta http-equiv=refresh content='0;url={address}/refresh'>",
        "javascript:document.title='RAN'",
        "{{ 7 * 7 }}{% for x in y %}",
        BIDI,
    ]


def open_in_browser(page: Path, profile: Path) -> str:
    """The document as it is after its scripts, had it any, have run."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "<body" in done.stdout, done.stderr[-2000:]
    return done.stdout


class Elements(HTMLParser):
    """The elements and attributes of a document; what stands in its texts does not count."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def hostile_run(tmp_path: Path, texts: list[str]) -> Run:
    """A run in which every text that a user can choose is a payload."""
    media = tmp_path / "media"
    media.mkdir()
    samples = []
    for number, text in enumerate(texts):
        # As a file's name a payload has no slash; as an id or a label it has.
        name = f"{number}{text.replace('/', '')[:80]}.png"
        Image.new("RGB", (16, 16), (20 * number, 90, 120)).save(media / name)
        for split in ("train", "val"):
            sample_id = f"{split} {text}"
            samples.append(Sample(sample_id, name, str(media), (text,), split, None, None))
    manifest = media / "samples.parquet"
    from_samples(samples).write(manifest)
    config = tiny_config(
        manifest,
        data__trusted_roots=texts,
        cluster={"num_clusters": 3},
        health={"tiny_below": 0},
        report={"num_sheet_clusters": 3, "num_sheet_samples": 12},
    )
    skips = [Skip(f"skipped {text}", f"path {text}", (f"pillow: {text}",)) for text in texts[:5]]
    right = {"n_pre": 3, "n_cf": 5, "random": 2}
    run = write_run(config, tmp_path / "run", skips=skips, fallbacks={texts[0]: 3}, num_right=right)
    # A configuration refuses such names of targets; a run folder that somebody sent may hold them all the same.
    for path in run.folder.glob("transfer/*/*/*/record.json"):
        record = read_json(path)
        record["facts"]["target"] = f"target {texts[3]}{BIDI}"
        write_json(path, record)
    return Run(config, run.folder)


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path, server: Server) -> None:
    texts = payloads(server.address)
    folder = report(hostile_run(tmp_path, texts))
    dom = open_in_browser(folder / "report.html", tmp_path / "profile")
    assert server.paths == []
    assert "<title>ClusterFit on image, seed 0</title>" in dom
    elements = Elements(dom)
    assert not elements.tags & {"script", "iframe", "object", "link", "svg"}
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert ("id", "RAN") not in elements.attributes
    assert {value for name, value in elements.attributes if name == "http-equiv"} == {"Content-Security-Policy"}
    assert "<h2>Setup</h2>" in dom, "the page is whole to its end"
    shown = html.unescape(dom)
    for text in texts[:-1]:
        assert f"train {text}" in shown, "as a sample id"
        assert shown.count(text) >= 3, "as an id and in words, as a label"
    assert "target <img src=x onerror=" in shown, "as a target"
    assert not set(BIDI) & {"\u202e", "\u2066", "\u2069"} & set(dom)
    assert "⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+2069⟩" in dom


def test_the_check_can_fail(tmp_path: Path, server: Server) -> None:
    texts = payloads(server.address)
    page = tmp_path / "unsafe.html"
    page.write_text(
        f"<!doctype html><title>safe</title><body>{''.join(texts[:1] + texts[2:4])}</body>", encoding="utf-8"
    )
    dom = open_in_browser(page, tmp_path / "profile")
    assert "/img" in server.paths
    assert "<title>RAN</title>" in dom
    assert '<body id="RAN">' in dom


def test_the_policy_holds_where_escaping_would_not(tmp_path: Path, server: Server) -> None:
    """The page's own policy is a second wall: even markup that gets onto the page runs nothing and calls no one."""
    texts = payloads(server.address)
    folder = report(hostile_run(tmp_path, texts))
    page = folder / "report.html"
    raw = "".join(texts[:1] + texts[2:10])
    page.write_text(page.read_text().replace("<main>", f"<main>{raw}", 1), encoding="utf-8")
    dom = open_in_browser(page, tmp_path / "profile")
    assert "<script" in dom, "the payloads are there"
    assert server.paths == []
    assert "<title>ClusterFit on image, seed 0</title>" in dom
    assert ("id", "RAN") not in Elements(dom).attributes
