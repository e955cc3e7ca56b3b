"""The page and its figures: whole, self-contained, and text wherever text came in."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.synthetic_run import ALL_STAGES, write_run

from cfvid.config import RunConfig
from cfvid.report.collect import collect
from cfvid.report.figures import Drawing, curve_figure, gain_figure, score_figures, size_figure
from cfvid.report.render import render
from cfvid.report.sheets import Sheet, Sheets, Thumbnail, make_sheets
from cfvid.stages import Run

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """What a page holds: tags, attributes, texts; tags must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def html(finished: Run) -> str:
    return render(collect(finished), make_sheets(finished))


def test_the_page_asks_nothing_of_anyone(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "form", "a", "base"} & set(page.tags)
    addresses = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "action", "style")]
    assert addresses
    assert all(value.startswith(("data:image/", "width: ")) for value in addresses)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    policy = next(value for _, name, value in page.attributes if name == "content")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert "http:" not in html.replace("http-equiv", "")
    assert "https:" not in html


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"noise": "tags", "label_noise": 0.25, "extra_tags": 1},
            "25% of the right ones are missing, and each sample has 1 draw of others.",
        ),
        ({"noise": "uniform", "label_noise": 0.5}, "Npre learnt labels of which 50% were made wrong."),
        ({"noise": "uniform", "label_noise": 0.0}, ""),
        ({"noise": "tags", "label_noise": 0.25, "weights": "n_pre.pth"}, ""),
    ],
)
def test_the_page_says_what_labels_were_learnt(finished: Run, options: dict[str, object], expected: str) -> None:
    report = collect(finished)
    report["config"]["pretrain"] |= options
    text = Page(render(report, Sheets())).text
    assert expected in text
    assert ("Npre learnt" in text) == bool(expected)


def test_the_page_says_what_there_is(html: str) -> None:
    text = Page(html).text
    for expected in (
        "Ncf is ahead of Npre, but by no more than chance could explain.",
        "target: one of its 12 validation samples is 8.3 points.",
        "target, linear probe",
        "+25.0",
        "12 validation samples, 24 training samples, 3 classes",
        "75.0% of 12 held-out samples",
        "Cluster 3: class1 44%",
        "num_clusters: 4",
    ):
        assert expected in text


def test_pictures_are_there_in_both_colour_schemes(html: str) -> None:
    page = Page(html)
    dark = [value for tag, name, value in page.attributes if tag == "source" and name == "srcset"]
    light = [value for tag, name, value in page.attributes if tag == "img" and name == "src" and "svg" in value]
    assert len(dark) == len(light) == 9  # gains, scores, four confusion matrices, two training curves, sizes
    assert not set(dark) & set(light)
    assert sum(value.startswith("data:image/jpeg") for _, _, value in page.attributes) == 7
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert all(alts)


@pytest.mark.parametrize("num_done", [0, 1, 3])
def test_a_partial_run_has_a_page(config: RunConfig, tmp_path: Path, num_done: int) -> None:
    run = write_run(config, tmp_path / "run", stages=ALL_STAGES[:num_done])
    text = Page(render(collect(run), make_sheets(run))).text
    assert "No answer yet: nothing has been scored." in text
    for stage in ALL_STAGES[num_done:-1]:
        assert f"{stage} not begun" in text


def test_the_same_run_gives_the_same_page(run: Run, html: str) -> None:
    assert render(collect(run), make_sheets(run)) == html


def test_the_default_page_is_small(run: Run) -> None:
    # Film strips of noise are the largest that there can be: 8 sheets of 6, each thumbnail 40 kB.
    strips = [Thumbnail(f"s{i}", 0.1, jpeg=b"\xff" * 40_000, size=(640, 96)) for i in range(6)]
    sheets = Sheets([Sheet(k, 10, 0.1, strips) for k in range(8)], median_distance=0.1)
    assert len(render(collect(run), sheets)) < 3_000_000


HOSTILE = [
    "<script>document.title='x'</script>",
    "\"'><b>",
    "$\\frac{1}{",
    "a\u202eb\x00",
    "#010101",
    "日本語",
    "x" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_figures_are_text(name: str) -> None:
    networks = {
        "n_pre": {"mean": 10.0, "std": None, "num_seeds": 1},
        "n_cf": {"mean": 20.0, "std": 1.0, "num_seeds": 2},
    }
    entry = {"target": name, "protocol": name, "metric": name, "networks": networks, "gain": 10.0, "chance": 5.0}
    drawings = [gain_figure([entry]), *score_figures([entry]), size_figure([1, 2, 3], tiny_below=2)]
    for drawing in drawings:
        assert isinstance(drawing, Drawing)
        for svg in (drawing.light, drawing.dark):
            root = ET.fromstring(svg)
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert tags <= {"svg", "defs", "style", "g", "path", "text", "tspan", "use", "clipPath", "rect"}


def test_figures_of_odd_data() -> None:
    size_figure([7], tiny_below=5)
    size_figure(list(range(1, 3000)), tiny_below=5)
    size_figure([4] * 200, tiny_below=5)
    curve_figure("one epoch", [{"epoch": 1.0, "loss": None, "accuracy": 0.5}], network="n_cf", held_out=0.0)
    assert gain_figure([]) is None
    assert score_figures([]) == []


def test_embedded_figures_are_the_drawings(html: str) -> None:
    sources = [value for tag, name, value in Page(html).attributes if tag == "img" and name == "src" and "svg" in value]
    assert sources
    for source in sources:
        assert ET.fromstring(base64.b64decode(source.partition("base64,")[2])).tag.endswith("svg")
