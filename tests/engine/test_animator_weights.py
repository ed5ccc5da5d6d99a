"""Public checkpoint formats: the real files' keys at full size, and what wrong files say."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from bench import animator_files
from safetensors.torch import load_file, save_file
from stillguard.engine.animators.pose_animator import denoiser_unet, load_pose_animator, pose_guider
from stillguard.engine.surrogates.reference_net import load_reference_net, reference_net
from stillguard.engine.weights.catalogue import catalogue
from stillguard.engine.weights.reading import WeightsError, read_weights
from torch import Tensor

MANIFESTS = {
    "moore_reference_unet": "AnimateAnyone",
    "magicanimate_appearance_encoder": "MagicAnimate",
    "magicpose_model_state": "MagicPose",
    "sd15_unet": "SD 1.5 (transfer surrogate)",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("animators")
    made = animator_files.animate_anyone(folder)
    others = {"magic_animate": animator_files.magic_animate(folder), "magic_pose": animator_files.magic_pose(folder)}
    return {**made, **others, "stable_diffusion": animator_files.stable_diffusion(folder)}


def published(shared: Path, name: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """A real file's keys and shapes, without its numbers."""
    manifest = json.loads((shared / "vectors" / "manifests" / f"{name}.json").read_text())
    return manifest, {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest["keys"].items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_key_of_a_published_reference_net_is_accounted_for(shared: Path, name: str) -> None:
    manifest, state = published(shared, name)
    net = reference_net(state, f"{name}.safetensors")
    assert net.format.name == MANIFESTS[name]
    assert len(net.names) == 16
    order = manifest.get("feature_list_order")
    if order:  # another order than that of the forward pass, but the same blocks
        assert {block.removesuffix(".transformer_blocks.0") for block, _ in order} == set(net.names)


@pytest.mark.parametrize(
    ("entry", "manifest"),
    {
        "animate_anyone_reference": "moore_reference_unet",
        "animate_anyone_denoiser": "moore_denoising_unet",
        "animate_anyone_motion": "moore_motion_module",
        "animate_anyone_pose_guider": "moore_pose_guider",
        "magic_animate_appearance": "magicanimate_appearance_encoder",
        "magic_pose": "magicpose_model_state",
        "sd_image_variations_encoder": "sd_image_variations_image_encoder",
    }.items(),
)
def test_the_catalogue_knows_the_published_files(shared: Path, entry: str, manifest: str) -> None:
    facts, state = published(shared, manifest)
    assert set(catalogue()[entry].keys) <= state.keys()
    assert catalogue()[entry].size_mb == pytest.approx(4 * facts["n_elements"] / 1e6, abs=1)


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("name", MANIFESTS)
def test_one_key_too_many_or_too_few_is_named(shared: Path, name: str, extra: bool) -> None:
    """Guards the test above."""
    _, state = published(shared, name)
    prefix = "appearance_control_model." if name.startswith("magicpose") else ""
    removed = next(key for key in state if key.startswith(prefix) and key.endswith("1.transformer_blocks.0.attn1.to_q.weight"))
    name_of_extra = f"{prefix}{'input_blocks.1.2' if prefix else 'down_blocks.0'}.surprise"
    if extra:
        state[name_of_extra] = torch.empty(1, device="meta")
    else:
        del state[removed]
    with pytest.raises(WeightsError, match=r"surprise" if extra else r"lacks .*attn1.to_q.weight"):
        reference_net(state, "file")


def test_every_key_of_the_published_animator_is_accounted_for(shared: Path) -> None:
    _, spatial = published(shared, "moore_denoising_unet")
    _, temporal = published(shared, "moore_motion_module")
    unet = denoiser_unet(spatial, temporal, ("denoising_unet.pth", "motion_module.pth"))
    # One of the two equal position buffers of each of the 21 motion modules is left out.
    assert len(unet.state_dict()) == len(spatial) + len(temporal) - 21
    _, guider = published(shared, "moore_pose_guider")
    assert len(pose_guider(guider, "pose_guider.pth").state_dict()) == len(guider)


def test_the_small_files_have_the_published_formats(files: dict[str, Path]) -> None:
    kinds = {"reference_unet": "AnimateAnyone", "magic_animate": "MagicAnimate", "magic_pose": "MagicPose"}
    assert {name: load_reference_net(files[name]).format.name for name in kinds} == kinds
    assert load_reference_net(files["stable_diffusion"]).format.name == "SD 1.5 (transfer surrogate)"
    load_pose_animator(files["denoising_unet"], files["motion_module"], files["pose_guider"])


def test_both_names_of_one_network_give_the_same_features(files: dict[str, Path], tmp_path: Path) -> None:
    """CompVis names converted, against the same tensors under diffusers' names."""
    state = load_file(files["denoising_unet"])
    ldm = {f"model.diffusion_model.{animator_files.ldm_name(key)}": value for key, value in state.items()}
    save_file(ldm, tmp_path / "ldm.safetensors")
    save_file(state, tmp_path / "unet.safetensors")
    generator = torch.Generator().manual_seed(0)
    latent, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    first, second = (load_reference_net(tmp_path / name)(latent, 7, context) for name in ("ldm.safetensors", "unet.safetensors"))
    assert len(first) == 10
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_features_are_what_enters_self_attention(files: dict[str, Path]) -> None:
    """Against diffusers' whole UNet with the same weights."""
    from diffusers import UNet2DConditionModel

    whole = UNet2DConditionModel(block_out_channels=animator_files.WIDTHS, layers_per_block=1, cross_attention_dim=32).eval()
    whole.load_state_dict(load_file(files["denoising_unet"]))
    seen: list[Tensor] = []
    blocks = [module for name, module in whole.named_modules() if name.endswith("transformer_blocks.0.attn1")]
    for block in blocks:
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    latent, context = torch.randn(2, 4, 8, 16, generator=generator), torch.randn(2, 3, 32, generator=generator)
    with torch.no_grad():
        whole(latent, 5, context)
        ours = load_reference_net(files["denoising_unet"].rename(files["denoising_unet"].with_name("unet.safetensors")))(latent, 5, context)
        files["denoising_unet"].with_name("unet.safetensors").rename(files["denoising_unet"])
    assert len(ours) == len(seen) == 10
    for feature, expected in zip(ours, seen, strict=True):
        torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize("chosen", ["motion_module", "pose_guider"])
def test_other_parts_of_an_animator_are_no_reference_net(files: dict[str, Path], chosen: str) -> None:
    with pytest.raises(WeightsError, match=r"choose (its reference_unet|AnimateAnyone's reference_unet.pth)"):
        load_reference_net(files[chosen])


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            ("reference_unet", "motion_module", "pose_guider"),
            "is a ReferenceNet, which has no output layer: choose AnimateAnyone's denoising",
        ),
        (("pose_guider", "motion_module", "denoising_unet"), "is not AnimateAnyone's denoiser: choose denoising_unet.pth"),
        (("denoising_unet", "denoising_unet", "pose_guider"), "holds no motion modules: choose AnimateAnyone's motion_module.pth"),
        (("denoising_unet", "motion_module", "motion_module"), "is not a pose guider: choose AnimateAnyone's pose_guider.pth"),
    ],
)
def test_swapped_files_are_named(files: dict[str, Path], parts: tuple[str, str, str], sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence):
        load_pose_animator(*(files[part] for part in parts))


def test_other_families_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(files["stable_diffusion"])
    save_file({**state, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, tmp_path / "sdxl.safetensors")
    wider = torch.zeros(32, 9, 3, 3)
    save_file({**state, "model.diffusion_model.input_blocks.0.0.weight": wider}, tmp_path / "inpainting.safetensors")
    for name, sentence in (("sdxl", "is an SDXL UNet"), ("inpainting", "takes 9 latent channels")):
        with pytest.raises(WeightsError, match=sentence):
            load_reference_net(tmp_path / f"{name}.safetensors")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(Path(os.environ["STILLGUARD_TEST_MARK"])),)


def test_code_inside_a_file_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLGUARD_TEST_MARK", str(tmp_path / "ran"))
    torch.save({"state_dict": {"conv_in.weight": torch.zeros(1)}, "extra": Harmful()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"conv_in.weight": Harmful()}))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(WeightsError, match="holds program code instead of bare weights, and nothing of it was run"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["reference_unet", "magic_pose"])
def test_a_truncated_file_is_named(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    cut = tmp_path / f"cut{files[kind].suffix}"
    cut.write_bytes(files[kind].read_bytes()[:-100000])
    with pytest.raises(WeightsError, match=r"is damaged or was not downloaded to its end: download it again"):
        read_weights(cut)


def test_a_page_instead_of_a_file(tmp_path: Path) -> None:
    """What a download that needs a login leaves."""
    for name in ("page.pth", "page.safetensors"):
        (tmp_path / name).write_text("<!doctype html><html>Sign in</html>")
        with pytest.raises(WeightsError, match="is damaged"):
            read_weights(tmp_path / name)
