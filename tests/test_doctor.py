"""The doctor: all is well here; a missing, broken or doubled package is told with what to do, never as a traceback."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from support.blocked import run_without

from cfvid import doctor
from cfvid.doctor import OPTIONAL, PACKAGES, examine, explain, find_twins
from cfvid.errors import MissingPackage
from cfvid.media import video
from cfvid.media.source import Opener
from cfvid.modalities import MODALITIES
from cfvid.models.zoo import ARCHITECTURES

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXAMINE = "from cfvid.doctor import examine\nsys.exit(examine())"


def test_the_table_has_every_requirement() -> None:
    required = {re.match(r"[\w.-]+", line).group() for line in PROJECT["dependencies"]}  # type: ignore[union-attr]
    assert {name.lower() for name in required} <= {name.lower() for names in PACKAGES.values() for name in names}
    assert len(PACKAGES) == len(required - {"faiss-cpu"})


def test_the_table_has_every_optional_requirement() -> None:
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "dev"}
    named = {(re.match(r"[\w.-]+", line).group(), extra) for extra, lines in extras.items() for line in lines}  # type: ignore[union-attr]
    assert named - {("fsspec", "http")} == set(OPTIONAL.items())


def test_optional_packages_are_told_and_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "aiohttp":
            raise metadata.PackageNotFoundError(name)
        return "1.2.3" if name == "s3fs" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    findings = {finding.name: finding for finding in doctor._versions()}
    assert findings["aiohttp"].text == "not installed (optional: pip install 'cfvid[http]')"
    assert findings["s3fs"].text == "1.2.3 (optional)"
    assert findings["aiohttp"].advice is None


@pytest.mark.parametrize(
    ("is_there", "text", "advice"),
    [(False, "not installed (optional)", None), (True, "broken: no libavutil", "apt-get install ffmpeg")],
)
def test_an_optional_decoder_is_only_mended_where_it_is_there(
    is_there: bool, text: str, advice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_installed() -> None:
        raise MissingPackage("no torchcodec", why="no libavutil", fix="apt-get install ffmpeg")

    monkeypatch.setattr(video.TorchCodecReader, "check_installed", check_installed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if is_there else None)
    monkeypatch.setattr(doctor, "_NUM_CHILDREN", 0)
    findings = {finding.name: finding for finding in doctor._decoders()}
    assert (findings["torchcodec"].text, findings["torchcodec"].advice) == (text, advice)


@pytest.fixture
def only_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tests of decoders and k-means, which take seconds."""
    for title in ("decoders", "k-means"):
        monkeypatch.delitem(doctor._SECTIONS, title)


@pytest.mark.usefixtures("only_working")
def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert examine() == 0
    shown = capsys.readouterr().out
    for module, names in PACKAGES.items():
        version = next(metadata.version(n) for n in names if n in {d.name for d in metadata.distributions()})
        assert re.search(rf"^  {names[0]} .*{re.escape(version)}$", shown, re.MULTILINE), module
    assert "libavcodec" in shown
    assert re.search(r"CPU +\d+ cores, [\d.]+ GiB memory", shown)
    for name in MODALITIES:
        assert re.search(rf"^  {name} +{'r2plus1d' if name == 'video' else 'resnet'}", shown, re.MULTILINE)
    for name in ARCHITECTURES:
        assert name in shown
    assert shown.endswith("to mend\n  nothing\n")


def test_decoders_and_kmeans_really_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for title in set(doctor._SECTIONS) - {"decoders", "k-means"}:
        monkeypatch.delitem(doctor._SECTIONS, title)
    assert examine() == 0
    shown = capsys.readouterr().out
    for name in video.VIDEO_DECODERS:
        assert re.search(rf"^  {name} +decodes H.264$", shown, re.MULTILINE)
    assert re.search(r"^  pillow +decodes JPEG$", shown, re.MULTILINE)
    assert re.search(r"^  k-means on CPU +finds four groups", shown, re.MULTILINE)


def test_packages_that_are_not_installed(tmp_path: Path) -> None:
    # av and torch are missing too, so that this takes no time: what needs them says so in one line.
    done = run_without("decord", "faiss", "av", "torch", code=EXAMINE, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    to_mend = done.stdout.partition("to mend\n")[2]
    for expected in ("decord>=0.6.0", "faiss-", "av>=", "torch>="):
        assert len(re.findall(rf"^  - pip install '{expected}[^']*'$", to_mend, re.MULTILINE)) == 1, to_mend
    assert re.search(r"^  decord +missing$", done.stdout, re.MULTILINE)


def test_a_package_that_breaks_at_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def breaking(name: str) -> object:
        if name == "decord":
            raise OSError("libavcodec.so.58: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", breaking)
    findings = {finding.name: finding for finding in doctor._versions()}
    assert "libavcodec.so.58" in findings["decord"].text
    assert findings["decord"].advice == "pip install --force-reinstall 'decord>=0.6.0'"
    assert findings["av"].advice is None


def fake(name: str, version: str, **files: str) -> metadata.Distribution:
    """A distribution that is not there."""

    class Fake(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            if filename == "METADATA":
                return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            return files.get(filename.replace(".", "_"))

        def locate_file(self, path: object) -> Path:
            return Path("/nowhere") / str(path)

    return Fake()


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ([fake("eva-decord", "0.6.1")], r"decord 0.6.0 and eva-decord 0.6.1 both provide `decord`: pip uninstall -y "
         r"decord eva-decord && pip install 'decord>=0.6.0'"),
        ([fake("faiss-cpu", "1.0"), fake("faiss-gpu-cu12", "1.0")], r"faiss-cpu 1.0 and .*both provide `faiss`"),
        ([fake("av", "12.0")], r"av 12.0 and av [\d.]+ .* provide `av`: pip uninstall -y av && pip install 'av>=\d+'"),
        ([fake("opencv-python", "4.1"), fake("opencv_python_headless", "4.2")], r"both provide `cv2`: pip uninstall"),
        ([fake("my-decord", "1", top_level_txt="decord\n")], r"decord 0.6.0 and my-decord 1 both provide `decord`"),
        ([fake("my-torch", "1", RECORD="torch/__init__.py,,\ntorch/x.py,,\n")], r"my-torch 1 and torch .* `torch`"),
    ],
)  # fmt: skip
def test_twins_are_named_with_what_to_remove(
    added: list[metadata.Distribution], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_twins() == []
    real = metadata.distributions

    def distributions() -> Iterator[metadata.Distribution]:
        yield from real()
        yield from added

    monkeypatch.setattr(metadata, "distributions", distributions)
    [advice] = find_twins()
    assert re.search(told, advice)
    for title in set(doctor._SECTIONS) - {"twins"}:
        monkeypatch.delitem(doctor._SECTIONS, title)
    assert examine() == 1
    assert f"  - {advice}\n" in capsys.readouterr().out


def test_a_decoder_that_gives_wrong_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Grey:
        """Claims the right number of frames and paints them grey."""

        def __init__(self, _opened: Opener) -> None:
            self.times_s = np.arange(30) / 15

        def read(self, indices: range, _change: object) -> np.ndarray:
            return np.full((len(indices), 32, 32, 3), 128, dtype=np.uint8)

        def close(self) -> None:
            pass

    def absent(opened: Opener) -> video.VideoReader:
        raise ModuleNotFoundError("No module named 'third'")

    monkeypatch.setitem(video.VIDEO_DECODERS, "decord", Grey)
    monkeypatch.setitem(video.VIDEO_DECODERS, "pyav", absent)
    monkeypatch.setattr(doctor, "_NUM_CHILDREN", 0)  # children would not see what is patched here
    findings = {finding.name: finding for finding in doctor._decoders()}
    assert findings["decord"].text == "broken: decodes to wrong pictures"
    assert findings["decord"].advice == "pip install --force-reinstall 'decord>=0.6.0'"
    assert "No module named 'third'" in findings["pyav"].text
    assert findings["pillow"].advice is None


def test_little_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CFVID_CACHE", str(tmp_path / "not" / "there" / "yet"))
    assert [finding.advice for finding in doctor._disk()] == [None, None]
    monkeypatch.setattr(doctor, "_SCARCE_BYTES", 10**20)
    assert all(finding.advice and finding.advice.startswith("Free some space") for finding in doctor._disk())


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "pip install 'faiss-"),
        (ModuleNotFoundError("No module named 'torch.x'", name="torch.x"), "pip install --force-reinstall 'torch>="),
        (ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp"), "pip install 'cfvid[http]'"),
        (ImportError("cannot import name 'x' from 'av'", name="av"), "pip install --force-reinstall 'av>="),
    ],
)
def test_import_errors_of_packages_are_explained(error: ImportError, fix: str) -> None:
    explained = explain(error)
    assert explained is not None
    assert explained.fix is not None
    assert explained.fix.startswith(fix)
    assert explained.exit_code == 7


def test_import_errors_of_our_own_are_not() -> None:
    assert explain(ModuleNotFoundError("No module named 'cfvid.x'", name="cfvid.x")) is None
    assert explain(ImportError("no name")) is None


def test_anything_else_that_breaks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[doctor.Finding]:
        yield doctor.Finding("first", "fine")
        raise RuntimeError("driver too old\nsecond line")

    monkeypatch.setattr(doctor, "_SECTIONS", {"devices": broken})
    assert examine() == 1
    shown = capsys.readouterr().out
    assert "  first            fine\n" in shown
    assert "broken           RuntimeError: driver too old second line\n" in shown


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_name: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", nothing)
    assert doctor._install("decord") == "pip install 'decord'"
