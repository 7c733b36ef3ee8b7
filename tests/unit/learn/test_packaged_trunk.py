"""Trunks that come as packages: which one is installed, any torch module in one flat vector, what stays constant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.strict import parse_toml
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.agreement.trunk_package import PackagedTensor
from kmel_p2p.delta.layout import Layout, TensorSpec, initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.module_body import ModuleBody
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.package_files import check_installed, files_hash, installed, package_with
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.models.trunk_draft import drafted_model, trunk_of
from kmel_p2p.learn.train.optimise import LocalOptimiser
from tests.support.learn_fixtures import DESCRIPTORS, SETTINGS, architecture, dataset
from tests.support.trunk_packages import LINEAR, write_package

Install = Callable[..., ModelRule]

ODD = '''
import torch
from torch import nn


class Odd(nn.Module):
    """Shared weights, a frozen table, a norm with running statistics, half precision, a scalar."""

    def __init__(self, shape):
        super().__init__()
        width = shape.hidden[-1]
        self.table = nn.Parameter(torch.randn(shape.inputs, width), requires_grad=False)
        self.first = nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.again.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.last = nn.Linear(width, width).to(torch.float16)

    def forward(self, features):
        hidden = self.norm(self.first(features @ self.table))
        return self.last(torch.relu(self.again(hidden) * self.gain))


def module(shape):
    return Odd(shape)
'''

DESCRIBED = LINEAR.replace(
    "    def forward(self, features):\n        return torch.relu(self.layer(features))",
    "    def forward(self, features, molecules):\n"
    "        lengths = torch.tensor([float(one['length'][0]) for one in molecules])\n"
    "        return torch.relu(self.layer(features)) + lengths[:, None]",
) + (
    "\n\nimport numpy as np\n\n\n"
    "def describe(smiles):\n    return {'length': np.array([len(smiles)], np.int32), 'text': smiles}\n"
)  # fmt: skip


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package and drafts a model with it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installing(name: str, code: str = LINEAR, options: tuple[str, ...] = ()) -> ModelRule:
        write_package(tmp_path, name, code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return drafted_model(*trunk_of(name), hidden=(6,), dropout=0.0, options=options)

    return installing


def shape_with(model: ModelRule) -> Architecture:
    return architecture().changed(**{**dict(model), "descriptors": DESCRIPTORS})


def narrow(model: ModelRule, shape: Architecture) -> Architecture:
    """The same package for the few features of the fixtures."""
    tensors = tuple(
        text.replace("layer.weight 6x2259", f"layer.weight 6x{shape.inputs}") for text in model.package.tensors
    )
    return shape_with(model.changed(package=model.package.changed(tensors=tensors)))


def started(shape: Architecture) -> Network:
    network = Network(shape)
    start_local(network, shape, 3, 4)
    return network


# ---- what the charter says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        PackagedTensor("layers.0.weight", (64, 32), 0.0, 0.1),
        PackagedTensor("gain", (), 1.0, 0.0),
        PackagedTensor("a", (1, 2, 3, 4, 5, 6, 7, 8), -2.5e-07, 1 / 3),
        PackagedTensor("empty", (0, 3), 0.0, 1e-10),
    ],
)
def test_a_tensor_is_written_and_read_back(tensor: PackagedTensor) -> None:
    assert PackagedTensor.parse(tensor.text) == tensor


@pytest.mark.parametrize(
    "tensor",
    [
        PackagedTensor("a b", (1,), 0.0, 0.0),
        PackagedTensor("a" * 201, (1,), 0.0, 0.0),
        PackagedTensor("a", (1,) * 9, 0.0, 0.0),
        PackagedTensor("a", (1,), float("nan"), 0.0),
        PackagedTensor("a", (1,), 0.0, float("inf")),
    ],
)
def test_what_cannot_be_written_is_refused(tensor: PackagedTensor) -> None:
    with pytest.raises(ConfigError, match="a name has at most 200"):
        _ = tensor.text


def test_a_charter_with_a_package_is_written_and_read(install: Install) -> None:
    model = install("written_trunk", options=("mode=fast",))
    site = SiteRule(name="a", key=Identity(bytes(32)).key.hex())
    charter = Charter(federation="f", sites=(site,), model=model, assay_endpoints=architecture().endpoints)
    document = CharterDocument(charter=charter)
    again = CharterDocument.parse(document.render(), "charter")
    assert again == document
    assert again.charter.id == charter.id
    assert hash(again.charter.model) == hash(model)
    assert again.charter.model.package.settings == {"mode": "fast"}
    plain = charter.model_copy(update={"model": ModelRule()})
    assert "package" not in CharterDocument(charter=plain).render()
    with pytest.raises(ConfigError, match=r"key 'package' .*option 'a' is given twice"):
        parse_toml(ModelRule, _toml(model).replace('"mode=fast"', '"a=1","a=2"'), "charter.toml")


def _toml(model: ModelRule) -> str:
    import tomli_w

    from kmel_p2p.agreement.canonical import plain

    return tomli_w.dumps(plain(model.model_dump()))


def test_the_layout_follows_from_the_charter_alone(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has to know what may leave without running the package: here it is not even there."""
    model = install("absent_trunk")
    monkeypatch.setattr("kmel_p2p.learn.models.packaged.check_installed", None)
    layout = trunk_layout(shape_with(model))
    assert [spec.name for spec in layout.specs[:2]] == ["trunk.layer.weight", "trunk.layer.bias"]
    assert layout.specs[0].shape == (6, 2259)
    assert kind_of(model).cost(shape_with(model)) == 6 * 2259 + 6


def test_the_daemon_reads_layout_and_files_without_importing(install: Install, tmp_path: Path) -> None:
    model = install("daemon_trunk", LINEAR)
    (tmp_path / "model.json").write_text(model.model_dump_json())
    code = f"""
import sys
from pathlib import Path
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.agreement.strict import build
import json
sys.path.insert(0, {str(tmp_path)!r})
model = build(ModelRule, json.loads(Path({str(tmp_path / "model.json")!r}).read_text()), "model")
from kmel_p2p.learn.models.package_files import check_installed
from kmel_p2p.learn.models.registry import kind_of
check_installed(model.package, model.trunk)
assert len(kind_of(model).tensors(None)) == 2
assert not {{"torch", "daemon_trunk"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "mlp"}, r"'mlp', which this program has itself.*remove the section \[model\.package\]"),
        ({"members": 3}, r"model\.members belongs to trunk"),
        ({"package": None}, r"one that comes as a package needs the section \[model\.package\]"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(install: Install, change: dict[str, object], message: str) -> None:
    model = install("unfit_trunk")
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        trunk_layout(shape_with(model.changed(**change)))


# ---- which package is installed -----------------------------------------------------------------------------------


def test_another_package_is_refused_with_what_to_install(install: Install, tmp_path: Path) -> None:
    model = install("exact_trunk")
    rule = model.package
    assert rule is not None
    assert check_installed(rule, model.trunk).version == "1.0"
    place = tmp_path / "exact_trunk.py"
    place.write_text(LINEAR + "# changed\n")
    with pytest.raises(ConfigError, match=r"exact_trunk 1\.0 with files of sha256 .*--force-reinstall --no-deps"):
        check_installed(rule, model.trunk)
    place.unlink()
    with pytest.raises(ConfigError, match=r"exact_trunk\.py: cannot be read.*install it again"):
        check_installed(rule, model.trunk)
    with pytest.raises(ConfigError, match=r"needs the package exact_trunk 2\.0, and 1\.0 is installed: pip install"):
        check_installed(rule.changed(version="2.0"), model.trunk)
    with pytest.raises(
        ConfigError, match=r"needs the package nowhere_trunk 1\.0 .* is not installed: pip install nowh"
    ):
        check_installed(rule.changed(name="nowhere_trunk"), model.trunk)


def test_bytecode_and_notes_of_the_installer_do_not_count(install: Install, tmp_path: Path) -> None:
    model = install("noted_trunk")
    facts = tmp_path / "noted_trunk-1.0.dist-info"
    (facts / "INSTALLER").write_text("another\n")
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "__pycache__" / "noted_trunk.cpython.pyc").write_bytes(b"compiled")
    assert files_hash(installed("noted_trunk")) == model.package.sha256
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: noted_trunk\nVersion: 1.0\nRequires-Dist: more\n")
    assert files_hash(installed("noted_trunk")) != model.package.sha256


def test_an_editable_package_has_no_hash(install: Install, tmp_path: Path) -> None:
    install("editable_trunk")
    (tmp_path / "editable_trunk-1.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    with pytest.raises(ConfigError, match=r"not installed from a wheel.*pip install the wheel"):
        files_hash(installed("editable_trunk"))


def test_a_module_that_comes_first_on_the_path_is_not_taken_for_the_package(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "shadowed_trunk")
    other = tmp_path / "other"
    other.mkdir()
    (other / "shadowed_trunk.py").write_text(LINEAR)
    monkeypatch.syspath_prepend(str(other))
    with pytest.raises(
        ConfigError, match=r"imported from .*/other/shadowed_trunk\.py, which is no file of that package"
    ):
        drafted_model(*trunk_of("shadowed_trunk"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        ("made = 1", r"has no function module\(shape\)"),
        ("def module(shape):\n    return 7", "gave int, not a torch.nn.Module"),
        ("def module(shape):\n    raise ValueError('only 64 wide')", "only 64 wide"),
        ("from torch import nn\n\ndef module(shape):\n    return nn.ReLU()", "no parameter that is trained"),
        ("from torch import nn\n\ndef module(shape):\n    return nn.LazyLinear(3)", "lazy modules are not possible"),
        (LINEAR + "\n\ndef initial(name, shape):\n    return 'small'\n", r"expected \(center, bound\) or None"),
    ],
)
def test_what_is_no_trunk_is_told(install: Install, code: str, message: str) -> None:
    name = f"no_trunk_{abs(hash(code))}"
    with pytest.raises(ConfigError, match=message):
        install(name, code)


def test_a_trunk_is_found_by_its_name(install: Install) -> None:
    install("found_trunk")
    assert package_with("found_trunk") == "found_trunk"
    with pytest.raises(ConfigError, match="no trunk 'lost_trunk' here"):
        package_with("lost_trunk")
    with pytest.raises(ConfigError, match="has no trunk 'other'; it has: found_trunk"):
        trunk_of("found_trunk", "other")


# ---- any module in one flat vector --------------------------------------------------------------------------------


def odd(install: Install, name: str, code: str = ODD) -> Architecture:
    """A shape for the fixtures' features, whose frozen table has another size than a charter's."""
    return shape_with(install(name, code))


def test_a_module_computes_with_the_flat_vector(install: Install) -> None:
    shape = odd(install, "flat_trunk")
    layout = trunk_layout(shape)
    assert [(spec.name, spec.shape) for spec in layout.specs if spec.name.startswith("trunk.")] == [
        ("trunk.gain", ()),
        ("trunk.first.weight", (6, 6)),
        ("trunk.first.bias", (6,)),
        ("trunk.again.bias", (6,)),
        ("trunk.norm.weight", (6,)),
        ("trunk.norm.bias", (6,)),
        ("trunk.last.weight", (6, 6)),
        ("trunk.last.bias", (6,)),
    ]
    network, data = started(shape), dataset()
    start = layout.split(network.trunk_values())
    assert start["trunk.gain"] == 0.5
    assert start["trunk.norm.weight"].tolist() == [1.0] * 6
    assert np.abs(start["trunk.first.weight"]).max() <= 1 / np.sqrt(6)
    rows = data.inputs.rows(data.train)
    before = network.predict(rows)
    changed = network.trunk_values()
    changed[layout.slices["trunk.last.bias"]] += 1
    network.load(changed)
    weights = layout.split(changed)["head.shared.weight"]
    moved = network.predict(rows) - before
    assert moved[:, shape.shared] == pytest.approx(
        np.broadcast_to(weights.sum(axis=1), moved[:, shape.shared].shape), abs=1e-4
    )


def test_its_gradient_is_that_of_finite_differences(install: Install) -> None:
    shape = odd(install, "gradient_trunk")
    network, data = started(shape), dataset()
    rows, values = data.inputs.rows(data.train[:8]), network.trunk_values()

    def loss(trunk: np.ndarray) -> float:
        network.load(trunk)
        return float(np.square(network.predict(rows)).mean())

    network.clear_gradients()
    network.forward(network.read(rows)).square().mean().backward()
    assert network.trunk.grad is not None
    gradient = network.laid_out(network.trunk.grad)
    direction = np.random.default_rng(0).normal(size=len(values)).astype(np.float32)
    step = 1e-3
    slope = (loss(values + step * direction) - loss(values - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(gradient @ direction), rel=2e-2)


def test_it_trains_and_its_constants_stay(install: Install) -> None:
    """BatchNorm keeps its statistics: two sites with one trunk predict alike, whatever they trained on."""
    shape = odd(install, "constant_trunk")
    network, data = started(shape), dataset()
    assert isinstance(network._body, ModuleBody)
    module: Any = network._body._module
    frozen, mean = module.table.detach().clone(), module.norm.running_mean.clone()
    before = network.trunk_values()
    LocalOptimiser(network, data, SETTINGS).train(5, 1.0)
    assert torch.equal(module.table, frozen)
    assert torch.equal(module.norm.running_mean, mean)
    assert int(module.norm.num_batches_tracked) == 0
    moved = trunk_layout(shape).split(network.trunk_values() - before)
    assert all(np.any(change) for name, change in moved.items() if name.startswith("trunk."))
    other = Network(shape)
    other.load(network.trunk_values())
    other.load_private(network.private_values())
    rows = data.inputs.rows(data.test)
    assert np.array_equal(other.predict(rows), network.predict(rows))


def test_a_buffer_that_changes_is_told(install: Install) -> None:
    code = ODD.replace("        hidden = self.norm", "        self.norm.running_mean += 1\n        hidden = self.norm")
    shape = odd(install, "changing_trunk", code)
    network, data = started(shape), dataset()
    with pytest.raises(ConfigError, match=r"changed its buffer norm\.running_mean in a pass: buffers are constants"):
        network.predict(data.inputs.rows(data.train))


def test_an_output_of_another_width_is_told(install: Install) -> None:
    code = ODD.replace(
        "return self.last(", "return hidden[:, :3] + 0 * self.last(hidden)[:, :3] if True else self.last("
    )
    with pytest.raises(ConfigError, match=r"gave \[60, 3\] where \[compounds, hidden\[-1\]\] is \[60, 6\]"):
        started(odd(install, "short_trunk", code)).predict(dataset().inputs.rows(dataset().train))


def test_descriptions_reach_the_module(install: Install) -> None:
    model = install("described_trunk", DESCRIBED)
    shape = narrow(model, architecture())
    network = started(shape)
    smiles = ["C" * (1 + row % 7) for row in range(len(dataset().inputs))]
    inputs = dataset().inputs.read_by(shape, smiles)
    rows = inputs.rows(np.arange(len(smiles)))
    longer = dataset().inputs.read_by(shape, [text + "C" for text in smiles]).rows(np.arange(len(smiles)))
    difference = network.activations(longer)[0] - network.activations(rows)[0]
    assert difference == pytest.approx(1, abs=1e-4)


def test_the_reference_hash_covers_what_nobody_trains(install: Install) -> None:
    def hashed(name: str, code: str) -> str:
        model = install(name, code)
        return kind_of(model).reference_hash(["CCO", "CCC"], model, 2048)

    plain = hashed("hashed_trunk_a", DESCRIBED)
    assert plain == hashed("hashed_trunk_b", DESCRIBED)
    assert plain != hashed("hashed_trunk_c", DESCRIBED.replace("len(smiles)", "len(smiles) + 1"))
    frozen = hashed("hashed_trunk_d", ODD)
    assert frozen == hashed("hashed_trunk_e", ODD)
    assert frozen != hashed("hashed_trunk_f", ODD.replace("torch.randn(", "2 * torch.randn("))
    with pytest.raises(ConfigError, match="describe gave object"):
        hashed("hashed_trunk_g", DESCRIBED.replace("'text': smiles", "'text': object()"))


def test_a_module_with_other_tensors_than_the_charter_is_refused(install: Install) -> None:
    model = install("other_trunk")
    with pytest.raises(
        ConfigError, match=r"tensor 1 is layer\.weight \[6, \d+\], in the charter layer\.weight \[6, 2259\]"
    ):
        Network(shape_with(model))
    fewer = model.changed(package=model.package.changed(tensors=model.package.tensors[:1]))
    with pytest.raises(ConfigError, match="2 tensors where the charter has 1"):
        kind_of(fewer).reference_hash([], fewer, 2048)


# ---- initial values ------------------------------------------------------------------------------------------------


def test_initial_values_lie_around_their_center_and_old_ones_stay() -> None:
    plain, moved = (TensorSpec("a", (500,), 0.25, center=center) for center in (0.0, 3.0))
    one, other = initial_trunk(Layout([plain]), 7), initial_trunk(Layout([moved]), 7)
    assert other == pytest.approx(one + 3, abs=1e-6)
    assert Layout([plain]).hash == Layout([moved]).hash
    assert initial_trunk(Layout([TensorSpec("a", (3,), 0.0, center=0.1)]), 7).tolist() == pytest.approx([0.1] * 3)
    with pytest.raises(ConfigError, match=r"has center 2000\.0; it must lie within"):
        Layout([TensorSpec("a", (3,), 0.0, center=2000.0)])
    with pytest.raises(ConfigError, match="has center nan"):
        Layout([TensorSpec("a", (3,), 0.0, center=float("nan"))])


def test_a_supplier_may_choose_initial_values(install: Install) -> None:
    code = LINEAR + "\n\ndef initial(name, shape):\n    return (0.5, 0.25) if name == 'layer.bias' else None\n"
    model = install("initial_trunk", code)
    assert [(t.center, t.bound) for t in model.package.parsed][1] == (0.5, 0.25)
    assert model.package.parsed[0].bound == pytest.approx(1 / np.sqrt(2259))
