"""Hallo: its file, the two networks in it, its masks, and how it generates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import talking
import torch
from bench import animator_files
from safetensors.torch import load_file
from stillguard.engine.animators.talking_head.head import TalkingHead, load_talking_head, talking_head
from stillguard.engine.animators.talking_head.masks import OVAL, Regions, face_masks, located
from stillguard.engine.animators.talking_head.sampler import Portrait, Speaking, animate, clip_states
from stillguard.engine.surrogates.reference_net import ReferenceNet, load_reference_net
from stillguard.engine.weights.reading import WeightsError
from torch import Tensor

Networks = tuple[ReferenceNet, TalkingHead]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return animator_files.talking_head(tmp_path_factory.mktemp("talking"), widths=(32, 32, 64, 64), context=16)


@pytest.fixture(scope="module")
def networks(file: Path) -> Networks:
    return load_talking_head(file)


def test_every_key_of_the_published_file_is_accounted_for(shared: Path) -> None:
    manifest = json.loads((shared / "vectors" / "manifests" / "hallo_net.json").read_text())
    assert animator_files.talking_shapes(**animator_files.HALLO) == {key: tuple(shape) for key, (shape, _) in manifest["keys"].items()}
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest["keys"].items()}
    net, head = talking_head(state, "net.pth")
    assert len(net.names) == len(head.names) == 16
    assert (head.context_dim, head.face_dim, head.longest, head.levels) == (768, 512, 32, 4)
    denoiser = sum(tensor.numel() for tensor in head.denoiser.unet.state_dict().values())
    # One of the two equal position buffers of each of the 21 motion modules is left out.
    second = sum(tensor.numel() for key, tensor in state.items() if key.endswith("attention_blocks.1.pos_encoder.pe"))
    assert denoiser == manifest["groups"]["denoising_unet"]["elements"] - second
    windows = head.windows(torch.empty(9, 12, 768))
    assert head.audio_tokens(windows.to("meta")).shape == (9, 32, 768)


@pytest.mark.parametrize("extra", ["reference_unet.surprise", "denoising_unet.down_blocks.0.surprise", "surprise"])
def test_one_key_too_many_is_named(file: Path, extra: str) -> None:
    with pytest.raises(WeightsError, match=f"net has unknown|has unknown {extra}"):
        talking_head({**load_file(file), extra: torch.zeros(1)}, "net")


@pytest.mark.parametrize(
    "missing",
    [
        "reference_unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "denoising_unet.up_blocks.1.audio_modules.0.transformer_blocks.0.zero_conv_lip.bias",
        "audioproj.proj2.bias",
    ],
)
def test_one_key_too_few_is_named(file: Path, missing: str) -> None:
    state = load_file(file)
    del state[missing]
    with pytest.raises(WeightsError, match=f"net is not a whole Hallo, because it lacks {missing}"):
        talking_head(state, "net")


def test_a_foreign_file_is_told_in_a_sentence(file: Path, tmp_path: Path) -> None:
    others = animator_files.animate_anyone(tmp_path)
    for other in others.values():
        with pytest.raises(WeightsError, match=r"is not Hallo's talking head: choose its net.pth.$"):
            load_talking_head(other)
    with pytest.raises(WeightsError, match=r"^net.safetensors is the whole of Hallo: use Load Talking Head"):
        load_reference_net(file)


def predicted(networks: Networks, **changes: Any) -> Tensor:
    """Three frames with two before them; the ReferenceNet's features are drawn."""
    _, head = networks
    generator = torch.Generator().manual_seed(3)
    height, frames = 8, 3

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    blocks = dict(zip(head.names, features(networks, drawn(3, 4, height, height)), strict=True))
    told: dict[str, Any] = {
        "noisy": drawn(1, 4, frames, height, height),
        "timestep": 500,
        "context": head.face_tokens(drawn(1, 16)),
        "face": head.locate(drawn(1, 1, 8 * height, 8 * height)),
        "audio": head.audio_tokens(head.windows(talking.speech(frames)))[None],
        "masks": talking.regions().levels(height, height, head.levels),
        "bank": {name: feature[:1] for name, feature in blocks.items()},
        "motion": {name: feature[None, 1:] for name, feature in blocks.items()},
    }
    for name, change in changes.items():
        told[name] = change(told[name]) if callable(change) else change
    with torch.no_grad():
        return head.denoise(**told)


def features(networks: Networks, latents: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return networks[0](latents, 0, torch.zeros(len(latents), 4, 16))


def all_but_the_middle(bank: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: feature if name.startswith("mid_block") else feature + 1 for name, feature in bank.items()}


def test_frames_before_reach_only_the_middle_block_of_the_network_that_silencer_differentiates(networks: Networks) -> None:
    for mode, same in (("reference", True), ("faithful", False)):
        assert torch.equal(predicted(networks, mode=mode), predicted(networks, mode=mode, motion=all_but_the_middle)) is same


def test_blocks_without_attention_have_motion_only_in_the_network_that_silencer_differentiates(file: Path) -> None:
    before, state = load_talking_head(file), load_file(file)
    touched = ("denoising_unet.down_blocks.3.motion_modules.", "denoising_unet.up_blocks.0.motion_modules.")
    after = talking_head({key: value * 2 if key.startswith(touched) and "pe" not in key else value for key, value in state.items()}, "net")
    assert torch.equal(predicted(before, mode="faithful"), predicted(after, mode="faithful"))
    assert not torch.equal(predicted(before, mode="reference"), predicted(after, mode="reference"))


def test_audio_counts_where_the_masks_are_and_as_much_as_the_scale_says(networks: Networks) -> None:
    def masked(masks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(level) for level in masks)

    heard = predicted(networks)
    assert not torch.equal(heard, predicted(networks, audio=torch.zeros_like))
    assert torch.equal(predicted(networks, masks=masked), predicted(networks, masks=masked, audio=torch.zeros_like))
    # Biases stand outside of the masks, so that a scale of 0 is not the same as no mask.
    assert not torch.equal(predicted(networks, scale=(0.0, 1.0, 1.0)), heard)


def test_any_size_has_a_prediction_of_its_size(networks: Networks) -> None:
    _, head = networks
    height, width = 10, 7
    names = dict(zip(head.names, features(networks, torch.zeros(1, 4, height, width)), strict=True))
    masks = talking.regions().levels(height, width, head.levels)
    assert predicted(
        networks,
        noisy=torch.randn(1, 4, 3, height, width),
        face=lambda face: face[..., :1, :1].expand(-1, -1, height, width),
        masks=masks,
        bank=names,
        motion={name: feature[None] for name, feature in names.items()},
    ).shape == (1, 4, 3, height, width)


def test_other_speech_features_are_refused(networks: Networks) -> None:
    with pytest.raises(ValueError, match=r"gives 3 layers of 8 numbers, .*: use wav2vec2-base\.$"):
        networks[1].windows(torch.zeros(4, 3, 8))


def portrait(networks: Networks, vae: Any) -> Portrait:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    masks = talking.regions().levels(8, 8, networks[1].levels)
    return Portrait(vae.encode(picture) * 0.18215, torch.ones(1, 16), torch.ones(1, 1, 64, 64), masks)


def test_clips_go_on_from_the_last_frames_of_the_clip_before(networks: Networks) -> None:
    net, head = networks
    vae, speech = talking.LinearVAE(), talking.speech(7)

    def made(speech: Tensor, steps: int = 1) -> list[Speaking]:
        return list(animate(net, head, vae, portrait(networks, vae), speech, steps=steps, clip=4, seed=7))

    states = made(speech, 2)
    told = [(state.clip, state.clips, state.state.done, None if state.frames is None else len(state.frames)) for state in states]
    assert told == [(1, 2, 1, None), (1, 2, 2, 4), (2, 2, 1, None), (2, 2, 2, 3)]
    frames = frames_of(made(speech))
    # What is said last changes nothing in the first clip; what is said first changes both.
    for place, unchanged in ((6, [True] * 4 + [False] * 3), (0, [False] * 7)):
        other = speech.clone()
        other[place] += 1
        assert [torch.equal(a, b) for a, b in zip(frames_of(made(other)), frames, strict=True)] == unchanged


def frames_of(states: list[Speaking]) -> Tensor:
    return torch.cat([state.frames for state in states if state.frames is not None])


class Recorded:
    """A head that remembers what its denoiser was told."""

    def __init__(self, head: TalkingHead) -> None:
        self._head, self.banks = head, list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def denoise(self, *told: Any, **named: Any) -> Tensor:
        self.banks.append(told[6])
        return self._head.denoise(*told, **named)


def test_the_published_code_gives_every_second_frame_of_a_clip_the_unconditional_portrait(networks: Networks) -> None:
    net, head = networks
    vae, audio = talking.LinearVAE(), head.audio_tokens(head.windows(talking.speech(4)))[None]
    shown = portrait(networks, vae)
    seen = {}
    for as_published in (False, True):
        recorded: Any = Recorded(head)
        before, noise = shown.latent.expand(2, -1, -1, -1), torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        list(clip_states(net, recorded, shown, before, audio, noise, steps=1, guidance=3.5, as_published=as_published))
        assert recorded.banks[0] is None
        seen[as_published] = recorded.banks[1]
    name = head.names[-1]
    tokens = head.face_tokens(torch.zeros(1, 16)), head.face_tokens(shown.face)
    with torch.no_grad():
        free, conditional = (net(shown.latent, 0, context)[-1] for context in tokens)
    torch.testing.assert_close(seen[False][name], conditional, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[True][name], torch.cat([free, conditional] * 2), rtol=0, atol=1e-4)
    assert (free - conditional).abs().max() > 1e-2


@pytest.mark.parametrize(("frames", "clip", "said"), [(0, 4, "There is no speech"), (3, 31, "choose 1 to 30")])
def test_generation_that_cannot_be(networks: Networks, frames: int, clip: int, said: str) -> None:
    net, head = networks
    with pytest.raises(ValueError, match=said):
        next(animate(net, head, talking.LinearVAE(), portrait(networks, talking.LinearVAE()), talking.speech(frames), clip=clip))


def mesh(left: float, top: float, right: float, bottom: float) -> Tensor:
    """A face whose oval spans these pixels and whose lips a part of them."""
    points = torch.full((478, 2), 0.5, dtype=torch.float64)
    corners = torch.tensor([[0, 0], [1, 1]], dtype=torch.float64)
    points[list(OVAL[:2])] = corners
    points[61], points[291] = torch.tensor([0.4, 0.7]), torch.tensor([0.6, 0.8])
    return points * torch.tensor([right - left, bottom - top]) + torch.tensor([left, top])


def test_the_largest_face_counts_and_its_box_stays_in_the_picture() -> None:
    small, large = mesh(10, 10, 30, 30), mesh(100, 20, 158, 100)
    made = face_masks([small, large], 120, 160)
    assert (made.face.right, made.face.top) == (160, 12)
    assert made.face.right - made.face.left == 68  # 2 * (58 * 1.2 // 2)
    assert made.region.sum() == made.face.area
    assert located(made.region, 60, 80).sum() == pytest.approx(made.face.area / 4)
    assert made.regions.maps.min() >= 0
    assert made.regions.maps.max() <= 1
    lips, face = made.regions.maps[2], made.regions.maps[1]
    assert lips.max() == 1
    assert lips.flatten().argmax() // 64 == pytest.approx(64 * (20 + 0.65 * 80) / 120, abs=3)
    assert face.flatten().argmax() % 64 > 32


def test_a_face_as_large_as_the_picture_and_none_at_all() -> None:
    whole = face_masks([mesh(-10, -10, 80, 80)], 64, 64)
    assert (whole.face.left, whole.face.top, whole.face.right, whole.face.bottom) == (0, 0, 64, 64)
    assert torch.isfinite(whole.regions.maps).all()
    with pytest.raises(ValueError, match=r"no face in the picture: use one .*give the masks yourself\.$"):
        face_masks([], 64, 64)


def test_masks_keep_whole_levels_at_every_size() -> None:
    levels = Regions(torch.full((3, 64, 64), 0.4)).levels(9, 7, 3)
    assert [tuple(level.shape) for level in levels] == [(3, 1, 9, 7), (3, 1, 5, 4), (3, 1, 3, 2)]
    assert all(torch.equal(level, torch.full_like(level, 102 / 255)) for level in levels)
