"""Importers of published weights, on files of the same layout and against a forward pass written out in numpy."""

from __future__ import annotations

import json
import math
import pickle

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from galstress.cli.commands import main
from galstress.errors import InputError, UnknownNameError
from galstress.networks import Network
from galstress.networks.importing import import_gamornet, import_gampen, read_scaling
from galstress.networks.pixels import PixelInputs
from galstress.prediction import predict
from galstress.simulation import simulate

CHANNELS, DENSE = (12, 32, 48, 48, 32), 512  # an eighth of the published ones
KERNELS, STRIDES = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1)
POOLED = (0, 1, 4)
SIDE = 83
SCALING = {"centre": (-0.4, 0.6, 10.0), "scale": (2.1, 0.7, 1.2)}


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code == 0


# ---- a Keras GaMorNet ----------------------------------------------------------------------------------------------


def keras_weights(seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias a layer, as Keras has them: height, width, before, after."""
    rng = np.random.default_rng(seed)
    shapes = [(k, k, before, after) for k, before, after in zip(KERNELS, (1, *CHANNELS), CHANNELS, strict=False)]
    shapes += [(3 * 3 * CHANNELS[-1], DENSE), (DENSE, DENSE), (DENSE, 3)]
    return [
        (rng.normal(0, np.sqrt(2 / np.prod(s[:-1])), s).astype("f4"), rng.normal(0, 0.1, s[-1]).astype("f4"))
        for s in shapes
    ]


def write_keras(path, weights, *, whole: bool = False, text: type = bytes) -> None:
    """As Keras 2 writes weights: a group a layer, also those without weights, and their order in attributes."""
    name = (lambda word: word.encode()) if text is bytes else str
    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if whole else file
        layers = []
        kinds = ["conv2d", "max_pooling2d", "local_response_normalization"]
        for place, (kernel, bias) in enumerate(weights):
            # numbered so that an order by name is not the order of the layers
            layer = f"conv2d_{14 - place}" if kernel.ndim == 4 else f"dense_{20 - place}"
            group = top.create_group(layer)
            group.attrs["weight_names"] = [name(f"{layer}/kernel:0"), name(f"{layer}/bias:0")]
            group[f"{layer}/kernel:0"], group[f"{layer}/bias:0"] = kernel, bias
            layers.append(name(layer))
            empty = f"{kinds[1 + place % 2]}_{place}"
            top.create_group(empty).attrs["weight_names"] = []
            layers.append(name(empty))
        top.attrs["layer_names"] = layers
        top.attrs["backend"] = name("tensorflow")


def padded(x: np.ndarray, kernel: int, stride: int, value: float) -> tuple[np.ndarray, int]:
    """TensorFlow's ``same`` for (N, H, W, C), and the side that comes out."""
    side = x.shape[1]
    out = -(-side // stride)
    missing = max((out - 1) * stride + kernel - side, 0)
    around = (missing // 2, missing - missing // 2)
    return np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=value), out


def keras_forward(weights, images: np.ndarray) -> np.ndarray:
    """Logits of (N, H, W) images, channels last, loop by loop."""
    x = images[..., None].astype("f8")
    for place, stride in enumerate(STRIDES):
        kernel, bias = weights[place]
        size = len(kernel)
        wide, out = padded(x, size, stride, 0.0)
        y = np.zeros((len(x), out, out, kernel.shape[3]))
        for row in range(out):
            for column in range(out):
                patch = wide[:, row * stride : row * stride + size, column * stride : column * stride + size]
                y[:, row, column] = np.tensordot(patch, kernel, 3) + bias
        x = np.maximum(y, 0)
        if place in POOLED:
            wide, out = padded(x, 3, 2, -np.inf)
            x = np.array([[wide[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2)) for c in range(out)]
                          for r in range(out)]).transpose(2, 0, 1, 3)  # fmt: skip
            near = np.array([[(x[:, max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] ** 2).mean((1, 2)).sum(-1)
                              for c in range(out)] for r in range(out)]).transpose(2, 0, 1)  # fmt: skip
            x = x / (1 + 1e-4 * near[..., None]) ** 0.75
    x = x.reshape(len(x), -1)
    for kernel, bias in weights[5:7]:
        x = np.tanh(x @ kernel + bias)
    return x @ weights[7][0] + weights[7][1]


@pytest.mark.parametrize(("whole", "text"), [(False, bytes), (True, str)])
def test_keras_file_gives_the_logits_of_its_own_layers(tmp_path, whole: bool, text: type) -> None:
    weights = keras_weights()
    write_keras(tmp_path / "w.hdf5", weights, whole=whole, text=text)
    network = import_gamornet(tmp_path / "w.hdf5", "candels")
    images = np.random.default_rng(3).gamma(0.4, 30, (3, SIDE, SIDE)).astype("f4")  # bright: the normalisation counts
    wanted = keras_forward(weights, images)
    with torch.no_grad():
        found = network.backbone(PixelInputs(torch.tensor(images)[:, None], None)).numpy()
    assert wanted.std(0).min() > 0.05
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert network.metadata["backbone"]["settings"]["response"] == "keras"
    assert network.metadata["imported"] == {"file": "w.hdf5", "layout": "Keras", "survey": "candels"}


def test_imported_network_is_saved_and_measures(tmp_path) -> None:
    write_keras(tmp_path / "w.hdf5", keras_weights())
    run("import", "gamornet", tmp_path / "w.hdf5", "--survey", "candels", "-o", tmp_path / "n.safetensors")
    network = Network.load(tmp_path / "n.safetensors")
    drawn = simulate("hst-wfc3-f160w", 3, seed=2, stamp_px=91)
    with torch.no_grad():
        raw, _ = network.raw(drawn)
    np.testing.assert_allclose(predict(network, drawn).probabilities, torch.softmax(raw, 1).numpy(), atol=1e-6)
    # raw pixels in units of zero point 25.95, the central 83 of them
    own = 10 ** (0.4 * (25.95 - drawn.survey.zero_point_mag))
    wanted = keras_forward(keras_weights(), drawn.images[:, 4:87, 4:87].numpy() * own)
    np.testing.assert_allclose(raw.numpy(), wanted, atol=3e-4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["weights"] == 471_771
    assert "w.hdf5" in " ".join(manifest["checksums"])


def test_keras_file_that_does_not_fit_says_why(tmp_path) -> None:
    good, path = keras_weights(), tmp_path / "w.hdf5"
    write_keras(path, good)
    with pytest.raises(InputError, match="65 to 96 pixels"):
        import_gamornet(path, "sdss")
    assert import_gamornet(path, "sdss", stamp_px=90).backbone.stamp_px == 90
    with pytest.raises(UnknownNameError, match="candels"):
        import_gamornet(path, "lsst")
    for change, words in (
        (lambda w: w[:4] + w[5:], "ranks"),
        (lambda w: [*w[:3], (w[3][0][:, :, :40], w[3][1]), *w[4:]], "conv4"),
        (lambda w: [(w[0][0] * np.nan, w[0][1]), *w[1:]], "not finite"),
        (lambda w: [(w[0][0], w[0][1][:5]), *w[1:]], "not a kernel and its bias"),
    ):
        write_keras(path, change(list(good)))
        with pytest.raises(InputError, match=words):
            import_gamornet(path, "candels")
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    with pytest.raises(InputError, match="order of its layers"):
        import_gamornet(path, "candels")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"cut off")
    with pytest.raises(InputError, match=r"w\.hdf5"):
        import_gamornet(path, "candels")


# ---- a GaMPEN of PyTorch -------------------------------------------------------------------------------------------


def foreign_gampen(side: int = 96, width: float = 0.0625) -> tuple[nn.ModuleDict, int]:
    """The layers as torchvision and the transformer's tutorial name them, made here of plain torch."""
    torch.manual_seed(9)
    wide = [max(4, round(width * c)) for c in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)]
    features: list[nn.Module] = []
    before = 3
    for place, channels in enumerate(wide):
        features += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        features += [nn.MaxPool2d(2)] if place in (1, 3, 6, 9, 12) else []
        before = channels
    dense = round(width * 4096)
    a, b, c = round(width * 64), round(width * 96), max(4, round(width * 32))
    local = nn.Sequential(
        nn.Conv2d(3, a, 11), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Conv2d(a, b, 9), nn.MaxPool2d(3, 2), nn.ReLU()
    )
    flat = local(torch.zeros(1, 3, side, side)).numel()
    parts = nn.ModuleDict({
        "vgg": nn.ModuleDict({
            "features": nn.Sequential(*features),
            "classifier": nn.Sequential(
                nn.Linear(before * 49, dense), nn.ReLU(), nn.Dropout(), nn.Linear(dense, dense), nn.ReLU(),
                nn.Dropout(), nn.Linear(dense, 9),
            ),
        }),
        "localization": local,
        "fc_loc": nn.Sequential(nn.Linear(flat, c), nn.ReLU(), nn.Linear(c, 1)),
    })  # fmt: skip
    for layer in parts.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    parts["fc_loc"][2].weight.data.mul_(0.02)
    nn.init.constant_(parts["fc_loc"][2].bias, 0.8)
    return parts.eval(), side


def foreign_forward(parts: nn.ModuleDict, views: torch.Tensor) -> torch.Tensor:
    zoom = parts["fc_loc"](parts["localization"](views).flatten(1))[:, 0]
    theta = torch.stack([torch.stack([zoom, 0 * zoom, 0 * zoom], 1), torch.stack([0 * zoom, zoom, 0 * zoom], 1)], 1)
    grid = nn.functional.affine_grid(theta, list(views.shape), align_corners=True)
    x = parts["vgg"]["features"](nn.functional.grid_sample(views, grid, align_corners=True))
    return parts["vgg"]["classifier"](nn.functional.adaptive_avg_pool2d(x, 7).flatten(1))


@pytest.mark.parametrize("wrapping", ["bare", "module", "dictionary", "transformer first"])
def test_torch_file_gives_the_outputs_of_its_own_layers(tmp_path, wrapping: str) -> None:
    parts, side = foreign_gampen()
    state = dict(parts.state_dict())
    if wrapping == "module":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if wrapping == "transformer first":
        state = dict(sorted(state.items(), key=lambda item: item[0].startswith("vgg")))
    torch.save({"epoch": 3, "state_dict": state} if wrapping == "dictionary" else state, tmp_path / "g.pt")
    network = import_gampen(tmp_path / "g.pt", **SCALING)
    assert network.backbone.stamp_px == side
    views = torch.asinh(torch.rand(2, 1, side, side) * 40).expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted, found = foreign_forward(parts, views), network.backbone(PixelInputs(views, None))
    assert bool((wanted[0] - wanted[1]).abs().max() > 1e-3)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    settings = network.metadata["backbone"]["settings"]
    assert (settings["bounded_zoom"], settings["pixels"], settings["dropout"]) == (False, "raw", 2e-4)
    assert network.metadata["head"]["name"] == "triple-published"


def test_scaling_of_the_labels_reaches_arcsec_and_nanojansky(tmp_path) -> None:
    """At raw outputs of zero the answer is the labels' mean: B/T, arcsec, and flux of zero point 27."""
    parts, _ = foreign_gampen()
    nn.init.zeros_(parts["vgg"]["classifier"][6].weight)
    bias = parts["vgg"]["classifier"][6].bias
    bias.data.copy_(torch.tensor([0.0, 0, 0, -14, -14, -14, 0, 0, 0]))
    torch.save(parts.state_dict(), tmp_path / "g.pt")
    network = import_gampen(tmp_path / "g.pt", **SCALING, dropout=0.0)
    for survey in ("hsc-wide-g", "sdss-g"):
        drawn = simulate(survey, 2, seed=1, stamp_px=96)
        mean = predict(network, drawn, draws=16).mean
        logit, ln_arcsec, ln_flux = SCALING["centre"]
        scale = drawn.survey.pixel_scale_arcsec / 0.168  # the network sees pixels
        wanted = [1 / (1 + math.exp(-logit)), math.exp(ln_arcsec) * scale, math.exp(ln_flux) * 3630.78e9 / 10**10.8]
        np.testing.assert_allclose(mean, [wanted] * 2, rtol=2e-3)


def test_labels_of_the_training_give_the_scaling(tmp_path) -> None:
    rng = np.random.default_rng(4)
    share = np.concatenate([[0.0, 1.0], rng.uniform(0.02, 0.97, 40)])
    radius, flux = rng.uniform(0.2, 4.3, 42), rng.uniform(1405, 131388, 42)
    lines = [f"{a},{b},{c}" for a, b, c in zip(share, radius, flux, strict=True)]
    (tmp_path / "info.csv").write_text("bt,R_e_asec,total_flux_adus\n" + "\n".join(lines))
    filled = share.copy()
    filled[:2] = share[2:].min() / 2, 1 - (1 - share[2:].max()) / 2
    labels = np.stack([np.log(filled / (1 - filled)), np.log(radius), np.log(flux)])
    lines = [",".join(map(repr, map(float, row))) for row in labels.T]
    (tmp_path / "logs.csv").write_text("custom_logit_bt,ln_R_e_asec,ln_total_flux_adus\n" + "\n".join(lines))
    for name in ("info.csv", "logs.csv"):
        centre, scale = read_scaling(tmp_path / name)
        np.testing.assert_allclose(centre, labels.mean(1), rtol=1e-9)
        np.testing.assert_allclose(scale, labels.std(1), rtol=1e-9)
    parts, _ = foreign_gampen()
    torch.save(parts.state_dict(), tmp_path / "g.pt")
    run("import", "gampen", tmp_path / "g.pt", "--labels", tmp_path / "info.csv", "-o", tmp_path / "n.safetensors")
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        stored = file.get_tensor("head.centre").numpy()
    np.testing.assert_allclose(stored, labels.mean(1) - [0, math.log(0.168), 0], rtol=1e-5)
    (tmp_path / "bad.csv").write_text("bt,R_e_asec\n0.5,1\n")
    for path, match in (("bad.csv", "total_flux_adus"), ("none.csv", "no such file")):
        with pytest.raises(InputError, match=match):
            read_scaling(tmp_path / path)


class Marks:
    """Would run when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code of a weights file was run",))


def test_torch_file_that_does_not_fit_says_why(tmp_path) -> None:
    path, (parts, _) = tmp_path / "g.pt", foreign_gampen()
    for content in (parts, {"state_dict": parts.state_dict(), "epoch": Marks()}):
        torch.save(content, path)
        with pytest.raises(InputError, match="runs code"):
            import_gampen(path, **SCALING)
    path.write_bytes(pickle.dumps(Marks()))
    with pytest.raises(InputError):
        import_gampen(path, **SCALING)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"g\.pt"):
        import_gampen(path, **SCALING)
    six = foreign_gampen()[0]
    six["fc_loc"][2] = nn.Linear(4, 6)
    torch.save(six.state_dict(), path)
    with pytest.raises(InputError, match="one zoom"):
        import_gampen(path, **SCALING)
    thin = foreign_gampen()[0]
    thin["vgg"]["features"][5] = nn.Conv2d(8, 4, 3)
    torch.save(thin.state_dict(), path)
    with pytest.raises(InputError, match="block2"):
        import_gampen(path, **SCALING)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="0 tensors"):
        import_gampen(path, **SCALING)


def test_what_the_torch_file_does_not_hold_must_be_given(tmp_path) -> None:
    path = tmp_path / "g.pt"
    torch.save(foreign_gampen(73)[0].state_dict(), path)
    with pytest.raises(InputError, match="labels, or centre and scale"):
        import_gampen(path)
    with pytest.raises(InputError, match="three numbers"):
        import_gampen(path, centre=(0, 0), scale=(1, 1, 1))
    with pytest.raises(InputError, match="73, 74, 75, 76"):
        import_gampen(path, **SCALING)
    with pytest.raises(InputError, match="dropout"):
        import_gampen(path, **SCALING, stamp_px=73)
    assert import_gampen(path, **SCALING, stamp_px=73, dropout=7e-4).backbone.dropout == 7e-4


@pytest.mark.parametrize(
    "words",
    [
        ["import", "vgg", "w.pt", "-o", "n.safetensors"],
        ["import", "gamornet", "none.hdf5", "-o", "n.safetensors"],
        ["import", "gamornet", "none.hdf5", "-o", "n.pt"],
        ["import", "gamornet", "none.hdf5", "--dropout", "0.1", "-o", "n.safetensors"],
        ["import", "gampen", "none.pt", "--survey", "sdss", "-o", "n.safetensors"],
        ["import", "gampen", "none.pt", "--centre", "0", "1", "2", "-o", "n.safetensors"],
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, monkeypatch, capsys, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
