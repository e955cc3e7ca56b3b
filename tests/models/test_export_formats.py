"""Exported networks compute what the network does, in the programs that they are for."""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.blocked import run_without
from torch import nn
from torchvision import models
from torchvision.models.video import r2plus1d_18

from cfvid.errors import ConfigError
from cfvid.models.card import Facts, escaped, model_card
from cfvid.models.export import FORMATS, TORCHVISION, Export, loads_into, state_of, write
from cfvid.models.foreign import load_foreign
from cfvid.models.weights import NetworkConfig
from cfvid.models.zoo import ARCHITECTURES, Network, build_network

INPUT = {"num_frames": 4, "frame_rate_hz": 15.0, "crop_size": 32, "resize": 32, "mean": [0.4, 0.4, 0.4]}


def make(arch: str, *, num_classes: int = 5) -> Export:
    network = build_network(arch, num_classes=num_classes, seed=2).eval()
    nn.init.normal_(network.head.weight, std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
    shape = (2, 3, 64, 64) if ARCHITECTURES[arch].dims == 2 else (2, 3, 4, 32, 32)
    config = NetworkConfig(arch, "video", num_classes, [], INPUT)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    return Export(network, config, example, "# card\n")


def outputs(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(batch)


# ---------------------------------------------------------------------------------------------- state dicts


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("arch", "constructor"),
    [("resnet18", models.resnet18), ("resnet50", models.resnet50), ("r2plus1d_18", r2plus1d_18)],
)
def test_torchvision_loads_it_strictly(arch: str, constructor: type, ending: str, tmp_path: Path) -> None:
    export, path = make(arch), tmp_path / f"network{ending}"
    told = write(export, "torchvision", path)
    assert TORCHVISION[arch] in told
    assert "num_classes=5" in told
    state = load_file(path) if ending == ".safetensors" else torch.load(path, weights_only=True)
    theirs = constructor(num_classes=5).eval()
    theirs.load_state_dict(state, strict=True)
    assert torch.equal(outputs(theirs, export.example), outputs(export.network, export.example))


def test_every_named_constructor_is_there() -> None:
    for arch, dotted in TORCHVISION.items():
        module, _, name = dotted.rpartition(".")
        with torch.device("meta"):
            theirs = getattr(importlib.import_module(module), name)(num_classes=5)
            ours = Network(arch, num_classes=5)
        export = Export(ours, NetworkConfig(arch, "image", 5, [], {}), torch.empty(0), "")
        expected = ours.trunk.state_dict() | {f"fc.{name}": t for name, t in ours.head.state_dict().items()}
        assert {n: t.shape for n, t in theirs.state_dict().items()} == {n: t.shape for n, t in expected.items()}
        assert loads_into(export) == f"it loads strictly into {dotted}, num_classes=5"


@pytest.mark.parametrize("arch", ["resnet10_tiny", "r2plus1d_10_thin", "r2plus1d_50"])
def test_others_say_that_there_is_none_and_come_back(arch: str, tmp_path: Path) -> None:
    export = make(arch)
    told = write(export, "torchvision", tmp_path / "network.safetensors")
    assert "torchvision has no" in told
    again = build_network(arch, num_classes=1, seed=9).eval()
    found = load_foreign(tmp_path / "network.safetensors", again)
    assert len(found.keys.unexpected) == 2, "the head"
    assert torch.equal(outputs(again.trunk, export.example), outputs(export.network.trunk, export.example))


def test_pytorchvideos_network_takes_its_own(tmp_path: Path) -> None:
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    with torch.device("meta"):
        theirs = create_r2plus1d(model_depth=50, model_num_class=5, dropout_rate=0.0, head_activation=None)
    theirs.load_state_dict(state_of(make("r2plus1d_50")), strict=True, assign=True)
    assert not any(parameter.is_meta for parameter in theirs.parameters())


def test_a_head_that_nobody_trained_stays_behind(tmp_path: Path) -> None:
    export = make("resnet18", num_classes=1)
    told = write(export, "torchvision", tmp_path / "trunk.pth")
    assert "trunk alone" in told
    assert "fc replaced by torch.nn.Identity()" in told
    theirs = models.resnet18()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "trunk.pth", weights_only=True), strict=True)


def test_a_folder_for_the_hub(tmp_path: Path) -> None:
    export, folder = make("resnet18"), tmp_path / "hub"
    write(export, "hub", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    theirs = models.resnet18(num_classes=5).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    assert torch.equal(outputs(theirs, export.example), outputs(export.network, export.example))
    config = json.loads((folder / "config.json").read_text())
    assert config["arch"] == "resnet18"
    assert config["input"] == INPUT
    assert config["feature_dim"] == 512
    assert (folder / "README.md").read_text() == "# card\n"
    with pytest.raises(ConfigError, match="is there already"):
        write(export, "hub", folder)


@pytest.mark.parametrize(
    ("format", "name"), [("torchvision", "x.onnx"), ("onnx", "x.pth"), ("torch-export", "x"), ("hub", "a-file")]
)
def test_an_unfit_place_is_refused_before_anything_is_written(format: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("mine")
    with pytest.raises(ConfigError, match=re.escape(name)):
        write(make("resnet10_mini"), format, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]
    assert (tmp_path / "a-file").read_text() == "mine"


# ---------------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("arch", ["r2plus1d_10_thin", "resnet10_tiny", "resnet18"])
def test_torch_export_with_any_batch_size(arch: str, tmp_path: Path) -> None:
    export = make(arch)
    assert "features and logits" in write(export, "torch-export", tmp_path / "network.pt2")
    program = torch.export.load(tmp_path / "network.pt2").module()
    for size in (1, 2, 5):
        batch = torch.randn(size, *export.example.shape[1:])
        features, logits = program(batch)
        torch.testing.assert_close(features, outputs(export.network.trunk, batch), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits, outputs(export.network, batch), rtol=1e-5, atol=1e-6)


def test_torch_export_of_a_trunk_alone(tmp_path: Path) -> None:
    export = make("resnet10_mini", num_classes=1)
    assert write(export, "torch-export", tmp_path / "trunk.pt2").endswith("to features")
    features = torch.export.load(tmp_path / "trunk.pt2").module()(export.example)
    torch.testing.assert_close(features, outputs(export.network.trunk, export.example))


def onnx_outputs(path: Path, batch: torch.Tensor) -> list[np.ndarray]:
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"batch": batch.numpy()})
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, {"batch": batch.numpy()})


@pytest.mark.skipif(
    not (importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxscript")),
    reason="onnx and onnxscript are not installed: pip install 'cfvid[onnx]'",
)
@pytest.mark.parametrize("arch", ["r2plus1d_10_thin", "resnet10_tiny"])
def test_onnx_with_any_batch_size(arch: str, tmp_path: Path) -> None:
    export = make(arch)
    write(export, "onnx", tmp_path / "network.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"], "one file, without external data"
    for size in (1, 2, 5):
        batch = torch.randn(size, *export.example.shape[1:])
        features, logits = onnx_outputs(tmp_path / "network.onnx", batch)
        np.testing.assert_allclose(features, outputs(export.network.trunk, batch), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, outputs(export.network, batch), rtol=1e-4, atol=1e-5)


def test_without_onnx_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util, torch\nfrom pathlib import Path\nfrom cfvid.errors import MissingPackage\n"
        "from cfvid.models.export import Export, write\nfrom cfvid.models.weights import NetworkConfig\n"
        "from cfvid.models.zoo import build_network\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'onnxscript' else find(name)\n"
        "network = build_network('resnet10_mini', num_classes=2, seed=0)\n"
        "export = Export(network, NetworkConfig('resnet10_mini', 'image', 2, [], {}), torch.zeros(2, 3, 32, 32), '')\n"
        "try: write(export, 'onnx', Path('x.onnx'))\nexcept MissingPackage as error: print(error)\n"
    )
    done = run_without("onnxscript", code=code, cwd=tmp_path)
    assert "onnxscript" in done.stdout, done.stderr
    assert "pip install 'cfvid[onnx]'" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_format_writes_something_else() -> None:
    assert list(FORMATS) == ["torchvision", "hub", "onnx", "torch-export"]
    endings = [ending for one in FORMATS.values() for ending in one.endings]
    assert len(set(endings)) == len(endings)


# ---------------------------------------------------------------------------------------------- the card

HOSTILE = [
    "[click](https://evil.example)",
    "<script>alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "a | b | c",
    "# heading",
    "`code` *bold* _it_",
    "line\n\n## other\r\n---\n",
    "https://evil.example www.evil.example",
    "&lt;b&gt;",
    "\u202egnp.exe\u2028next",
    "x" * 500,
]
FACTS = Facts(
    is_n_cf=True,
    feature_dim=512,
    num_parameters=11_176_512,
    counts={"training samples": 1234},
    scores=[{"target": HOSTILE[0], "protocol": "linear", "seed": 0, "top1": 51.25, "top5": 80.0}],
    constructor="torchvision.models.resnet18",
)


def test_the_card_tells_what_there_is() -> None:
    config = NetworkConfig("resnet18", "image", 24, [], {"crop_size": 32, "mean": [0.4, 0.5, 0.6]})
    card = model_card(config, dataclasses.replace(FACTS, scores=[{**FACTS.scores[0], "target": "shapes"}]))
    assert card.startswith("---\nlibrary_name: pytorch\n")
    for text in (
        "24 clusters",
        "| training samples | 1,234 |",
        "512 dimensions",
        "| shapes | linear | 0 | top1 | 51.2 |",
        "| shapes | linear | 0 | top5 | 80.0 |",
    ):
        assert text in card
    assert "resnet18(num_classes=24)" in card
    assert "0\\.4 0\\.5 0\\.6" in card
    brought = NetworkConfig(
        "resnet18", "image", 1, [], {}, {"source": {"name": "VISSL ResNet-50", "trained_with": {"num_frames": 32}}}
    )
    card = model_card(brought, Facts(is_n_cf=False, feature_dim=512, num_parameters=1, has_head=False))
    assert "| weights from | VISSL ResNet\\-50 |" in card
    assert "num\\_frames 32" in card
    assert "| head | none |" in card
    assert "Transfer" not in card


@pytest.mark.parametrize("num_classes", [5, 1])
def test_the_use_of_the_card_works(num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = make("resnet18", num_classes=num_classes)
    folder = tmp_path / "hub"
    card = model_card(export.config, dataclasses.replace(FACTS, has_head=num_classes > 1))
    write(dataclasses.replace(export, card=card), "hub", folder)
    monkeypatch.chdir(folder)
    first, second = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, object] = {"batch": export.example}
    with torch.inference_mode():
        exec(first, names)  # our own text
        exec(second, names)
    original = export.network if num_classes > 1 else export.network.trunk
    torch.testing.assert_close(names["outputs"], outputs(original, export.example))
    torch.testing.assert_close(names["features"], outputs(export.network.trunk, export.example))


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_users_do_nothing(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    config = NetworkConfig("resnet18", "image", 2, [text, "other"], {text: text}, {"source": {"file": text}})
    facts = dataclasses.replace(FACTS, scores=[{**FACTS.scores[0], "target": text}])
    body = model_card(config, facts).split("---\n", 2)[2]
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    page = parser.render(body)
    plain = parser.render(model_card(NetworkConfig("resnet18", "image", 2, ["a", "other"], {"a": "a"},
                                                   {"source": {"file": "a"}}), facts).split("---\n", 2)[2])  # fmt: skip
    assert re.findall(r"<(\w+)", page) == re.findall(r"<(\w+)", plain), "no tag more than with a harmless text"
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert " ".join(re.sub("[\u202e\u2028]", " ", text).split())[:79] in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_every_mark_is_escaped_and_lines_are_joined(text: str) -> None:
    shown = escaped(text)
    assert not re.search(r"(?<!\\)(\\\\)*[" + re.escape("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~") + "]", shown)
    assert shown.isprintable()
    assert len(shown.replace("\\", "")) <= 80


def test_bare_addresses_are_no_links() -> None:
    """GitHub and the Hub link what looks like an address."""
    assert "://" not in escaped("https://evil.example")
    assert "www." not in escaped("www.evil.example")
    assert "@" not in escaped("a@evil.example").replace("\\@", "")
