"""Models that are cut behind the last block that a loss reads: the whole model's numbers to the bit, and nothing of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from cut_models import Run, attention, outputs, photo_of, surrogate_of, with_lora
from stillguard.engine import Observation
from torch import Tensor
from video_models import FILES, Loaded, load

if TYPE_CHECKING:
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.video.model import VideoSurrogate

pytestmark = pytest.mark.usefixtures("comfy")
# Their like runs without --slow.
SLOW = {"SVD", "Wan Animate", "LTX", "Hunyuan (replace)"}


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("early")


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FILES])
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


@pytest.fixture(scope="module")
def wan(folder: Path) -> Loaded:
    return load("Wan", folder)


def network_of(surrogate: VideoSurrogate) -> Any:
    return surrogate.model.model.diffusion_model


def count(network: Any, kind: str = "output") -> int:
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    return len(tapped_blocks(network, kind))  # type: ignore[arg-type]


def check_same(losses: tuple[LossSpec, ...], photo: Tensor, last: int | None, *, low_memory: bool = False) -> None:
    whole, cut = (Run(losses, photo, cut=choice, low_memory=low_memory) for choice in (False, True))
    expected, found = whole.gradient(), cut.gradient()
    assert float(expected.abs().max()) > 0
    assert torch.equal(found, expected)
    assert all(torch.equal(cut.values[name], value) for name, value in whole.values.items())
    assert cut.denoiser.last == last
    every = count(whole.denoiser.network)
    assert count(cut.denoiser.network) == (every if last is None else last + 1)
    assert (cut.denoiser.patcher.model_size() < whole.denoiser.patcher.model_size()) == (last is not None)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_cut_models_gradient_is_the_whole_ones_to_the_bit(loaded: Loaded, low_memory: bool) -> None:
    """Outputs of a block in the middle, with the photo's way through conditioning, VAE and image encoder."""
    surrogate, photo = surrogate_of(loaded), photo_of(loaded)
    last = (count(network_of(surrogate)) - 1) // 2
    check_same((outputs(surrogate, last),), photo, last, low_memory=low_memory)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_every_place_to_cut(loaded: Loaded, low_memory: bool) -> None:
    """Every block's output, on both sides of a border between lists of blocks too; behind the last one nothing is cut."""
    surrogate, photo = surrogate_of(loaded), photo_of(loaded)
    every = count(network_of(surrogate))
    for block in range(every):
        check_same((outputs(surrogate, block),), photo, None if block == every - 1 else block, low_memory=low_memory)


def holder(network: Any, block: int) -> int:
    """Of a UNet, the number of the container in which that attention is, found by its name."""
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    wanted = tapped_blocks(network, "attention")[block]
    (name,) = [name for name, part in network.named_modules() if part is wanted]
    part, number, *_ = name.split(".")
    before = {"input_blocks": 0, "middle_block": len(network.input_blocks), "output_blocks": len(network.input_blocks) + 1}
    return before[part] + (0 if part == "middle_block" else int(number))


def check_attention(loaded: Loaded, block: int, *, low_memory: bool) -> None:
    surrogate = surrogate_of(loaded)
    network = network_of(surrogate)
    last = holder(network, block) if hasattr(network, "input_blocks") else block
    check_same((attention(surrogate, block),), photo_of(loaded), None if last == count(network) - 1 else last, low_memory=low_memory)


@pytest.mark.parametrize("family", ["SVD", "Hunyuan (concat)"])
def test_attention_of_the_first_block(folder: Path, family: str) -> None:
    check_attention(load(family, folder), 0, low_memory=False)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_attention_of_every_block(loaded: Loaded, low_memory: bool) -> None:
    for block in range(count(network_of(surrogate_of(loaded)), "attention")):
        check_attention(loaded, block, low_memory=low_memory)


@pytest.fixture
def deep(folder: Path) -> Loaded:
    """Wan Animate with twelve blocks, its own over and over, and as many face blocks as core makes of them, each with its own weights."""
    import copy

    loaded = load("Wan Animate", folder)
    network = loaded.model.model.diffusion_model
    network.blocks = torch.nn.ModuleList(copy.deepcopy(network.blocks[number % 2]) for number in range(12))
    fuser = network.face_adapter.fuser_blocks
    network.face_adapter.fuser_blocks = torch.nn.ModuleList(copy.deepcopy(fuser[0]) for _ in range(-(-12 // 5)))
    # No file can give it again.
    loaded.model.cached_patcher_init, loaded.model.size = None, 0
    return loaded


@pytest.mark.parametrize(
    ("last", "kept"), [(0, 0), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 1), (4, 1), (5, 1), (10, 2))), (6, 2)]
)
def test_face_blocks_go_with_the_blocks_behind_which_they_run(deep: Loaded, last: int, kept: int) -> None:
    surrogate = surrogate_of(deep)
    run = Run((outputs(surrogate, last),), photo_of(deep))
    found = run.gradient()
    assert len(run.denoiser.network.face_adapter.fuser_blocks) == kept
    assert torch.equal(found, Run((outputs(surrogate, last),), photo_of(deep), cut=False).gradient())


def test_losses_of_one_model_agree_on_the_last_block(wan: Loaded) -> None:
    """The deepest counts, a loss without weight does not, and one that uses the estimate keeps the model whole."""
    from stillguard.nodes.bridge.protect.loss_spec import surrogates_of
    from stillguard.nodes.losses.anti_i2v import denoising, velocity_min
    from stillguard.nodes.losses.freeze import frozen_video
    from stillguard.nodes.losses.i2vguard import contrastive_frames, l2_penalty

    surrogate = surrogate_of(wan)
    key, every = id(surrogate.model), count(network_of(surrogate))
    first, second = outputs(surrogate, 0), outputs(replace(surrogate), 0, 1)
    assert surrogates_of((first, second, l2_penalty(1.0))).last_block(key) == (1 if every > 2 else None)
    assert surrogates_of((first, outputs(surrogate, every - 1, weight=0.0))).last_block(key) == 0
    for whole in (denoising, velocity_min, frozen_video):
        assert surrogates_of((first, whole(1.0, surrogate))).last_block(key) is None
    assert surrogates_of((first, contrastive_frames(1.0, surrogate, None))).last_block(key) is None
    assert surrogates_of((l2_penalty(1.0),)).last_block(key) is None


def test_two_losses_share_a_cut_model(wan: Loaded) -> None:
    """Of other noise levels and of the same: each has its own bits."""
    surrogate = surrogate_of(wan)
    check_same((outputs(surrogate, 0), attention(surrogate, 0)), photo_of(wan), 0)


def test_a_loss_that_says_nothing_of_what_it_needs_is_found_out(wan: Loaded) -> None:
    from stillguard.nodes.losses.anti_i2v import denoising, velocity_min

    surrogate = surrogate_of(wan)
    for other, error in (
        (denoising(1.0, surrogate), "cut behind block 0"),
        (velocity_min(1.0, surrogate), "cut behind block 0"),
        (outputs(surrogate, 1), "a loss reads block 1"),
    ):
        run = Run((outputs(surrogate, 0), replace(other, reads=None)), photo_of(wan))
        with pytest.raises(RuntimeError, match=error):
            run.gradient()


def test_the_users_own_model_makes_the_first_video(loaded: Loaded) -> None:
    """The same bits as the whole copy's, with patches too; and it is left as it was."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    with torch.inference_mode():
        surrogate = surrogate_of(loaded, video=None, model=with_lora(loaded.model))
    photo = photo_of(loaded)
    side = photo.shape[-1]
    before = {key: value.clone() for key, value in surrogate.model.model.state_dict().items()}
    found = []
    for last_blocks in ({}, {id(surrogate.model): 0}):
        with autograd_session():
            surrogates = Surrogates(last_blocks=last_blocks)
            setup = video_setup(surrogates, surrogate)
            with surrogates.on_device(height=side, width=side, low_memory=False), surrogates.step():
                prior = setup.prior(Observation(photo))
        assert not prior.is_inference()
        found.append(prior)
    whole, cut = found
    assert torch.equal(cut, whole)
    assert count(setup.model.denoiser.network) == 1
    surrogate.model.unpatch_model(surrogate.model.offload_device)
    assert all(torch.equal(value, before[key]) for key, value in surrogate.model.model.state_dict().items())
