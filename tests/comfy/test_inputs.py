"""What may arrive at a socket, for every node of the pack: pictures and masks of other nodes, and nothing where something should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy_api.latest import io

pytestmark = pytest.mark.usefixtures("comfy", "folders")
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def folders(comfy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and output folders of this test's own."""
    import folder_paths
    from stillguard.nodes.bridge.model_files import register_model_folders

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    register_model_folders()


def registered() -> dict[str, type[io.ComfyNode]]:
    """The nodes as ComfyUI gets them, by their ids."""
    from stillguard.nodes import StillguardExtension

    return {node.define_schema().node_id: node for node in asyncio.run(StillguardExtension().get_node_list())}


def sockets(kind: str | None = None) -> Iterator[tuple[type[io.ComfyNode], io.Input]]:
    """All sockets without a widget that can be connected, or those of a kind."""
    from comfy_api.latest import io

    for node in registered().values():
        for one in node.define_schema().inputs:
            if not isinstance(one, io.WidgetInput | io.Autogrow.Input | io.DynamicCombo.Input) and kind in (
                None,
                *one.get_io_type().split(","),
            ):
                yield node, one


def run(name: str, **inputs: object) -> tuple[Any, ...]:
    return registered()[name].PREPARE_CLASS_CLONE(None).execute(**inputs).args


@pytest.mark.parametrize("dtype", HALVES)
def test_every_picture_and_mask_is_computed_in_fp32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*sockets("IMAGE"), *sockets("MASK")]
    assert len(found) > 25
    for node, socket in found:
        seen: dict[str, Tensor] = {}
        monkeypatch.setattr(node.__mro__[1], "execute", classmethod(lambda cls, seen=seen, **inputs: seen.update(inputs)))
        given = torch.rand(2, 8, 8, 3).to(dtype)
        value = given[..., 0] if socket.get_io_type() == "MASK" else given
        node.execute(**{socket.id: value})
        wide = socket.get_io_type() in ("IMAGE", "MASK")
        assert torch.equal(seen[socket.id], value.float() if wide else value), (node, socket.id)
        assert seen[socket.id].dtype == (torch.float32 if wide else dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_changes_no_node_but_by_its_own_rounding(dtype: torch.dtype, astronaut: Tensor) -> None:
    """Nodes with level arithmetic, run for real; videos, which are not widened as a whole, too."""
    from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED

    import nodes

    image = astronaut[..., :64, :64].movedim(1, -1).to(dtype)
    loss = run("StillguardVAELatentLoss", vae=nodes.VAELoader().load_vae(SHIPPED.name)[0], weight=10.0, latent_scale=0.0)[0]
    settings = {"update": {"update": "sign", "step": 1.0}, "seed": 1, "working_size": 64, "memory": "fast", "budget": 8.0, "steps": 2}
    frames = {"victim": "one", "surrogate": False, "measures": {"measures": "pixels only"}, "lpips_backbone": "none"}
    kinds: dict[str, dict[str, object]] = {
        "StillguardRandomNoise": {"budget": 8.0, "seed": 1},
        "StillguardTransformImage": {"transformation": {"transformation": "JPEG", "quality": 75, "subsampling": "4:2:0"}},
        "StillguardProtect": {"loss": loss, "mask": torch.rand(1, 64, 64).to(dtype), **settings},
    }
    for name, inputs in kinds.items():
        halved = run(name, image=image, **inputs)[0]
        assert halved.dtype == torch.float32
        assert torch.equal(halved, run(name, image=image.float(), **inputs)[0]), name
    moved = run("StillguardRandomNoise", image=image, budget=8.0, seed=1)[0]
    told = [run("StillguardPerturbationVisibility", clean=one, protected=moved, lpips_backbone="none")[0] for one in (image, image.float())]
    assert told[0] == told[1]
    assert "L-infinity 8 levels" in told[0]
    video = {"paper_conventions": False, "length": "equal", **frames}
    tables = [run("StillguardCompareVideos", clean=one, protected=moved, **video)[1] for one in (image, image.float())]
    assert tables[0] == tables[1]


def test_no_picture_at_all_is_one_sentence_in_every_node() -> None:
    for node, socket in sockets("IMAGE"):
        with pytest.raises(ValueError, match=rf"^`{socket.id}` holds no picture \(0x8x8x3\): connect a node that gives at least one\.$"):
            node.execute(**{socket.id: torch.zeros(0, 8, 8, 3)})


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_one_sentence_in_every_node(channels: int) -> None:
    for node, socket in sockets("IMAGE"):
        with pytest.raises(ValueError, match=f"The picture has {channels} channels: give a greyscale, RGB or RGBA picture"):
            node.execute(**{socket.id: torch.zeros(1, 8, 8, channels)})


def test_a_socket_that_is_connected_and_holds_nothing_is_named_with_its_loader() -> None:
    givers = {
        "VAE": "connect Load VAE",
        "CLIP": "connect Load CLIP",
        "CLIP_VISION": "connect Load CLIP Vision",
        "MODEL": "connect Load Diffusion Model or Load Checkpoint",
        "IMAGE": "connect Load Image",
    }
    kinds = set()
    for node, socket in sockets():
        with pytest.raises(ValueError, match=rf"^What is connected to `{socket.id}` gives nothing, as a loader .*: connect ") as raised:
            node.execute(**{socket.id: None})
        kinds.add(socket.get_io_type())
        assert givers.get(socket.get_io_type(), "") in str(raised.value)
        assert ("or nothing" in str(raised.value)) == socket.optional
    assert givers.keys() <= kinds


def test_a_vae_of_sound_is_refused_in_every_node() -> None:
    for node, socket in sockets("VAE"):
        for sound in (SimpleNamespace(latent_dim=1, output_channels=2), SimpleNamespace(latent_dim=2, output_channels=2)):
            with pytest.raises(ValueError, match=f"The VAE at `{socket.id}` is one of sound or shapes: connect one of pictures or videos"):
                node.execute(**{socket.id: sound})


@pytest.mark.parametrize("shape", ["HW", "BHW", "BHW1", "B1HW"])
def test_masks_of_every_shape_are_the_same_mask(shape: str, astronaut: Tensor) -> None:
    mask = torch.zeros(1, 16, 24)
    mask[:, :8] = 1
    given = {"HW": mask[0], "BHW": mask, "BHW1": mask[..., None], "B1HW": mask[:, None]}[shape]
    image = astronaut[..., :16, :24].movedim(1, -1)
    noisy = run("StillguardRandomNoise", image=image, budget=8.0, seed=1, mask=given)[0]
    assert torch.equal(noisy[:, 8:], image[:, 8:])
    assert torch.equal(noisy[:, :8], run("StillguardRandomNoise", image=image, budget=8.0, seed=1)[0][:, :8])


@pytest.mark.parametrize("shape", [(1, 3, 16, 24), (24,), (0, 16, 24)])
def test_what_is_no_mask_is_named_with_its_shape_in_every_node(shape: tuple[int, ...]) -> None:
    found = list(sockets("MASK"))
    assert len(found) > 5
    for node, socket in found:
        told = rf"`{socket.id}` has the shape {'x'.join(map(str, shape))} and a mask is \[B,H,W\]: connect a MASK"
        with pytest.raises(ValueError, match=told):
            node.execute(**{socket.id: torch.ones(shape)})


def test_seeds_and_memory_are_the_same_in_every_node() -> None:
    """Seeds as core's KSampler takes them."""
    from comfy_api.latest import io

    import nodes

    most = nodes.KSampler.INPUT_TYPES()["required"]["seed"][1]["max"]
    declared = [one for node in registered().values() for one in node.define_schema().inputs]
    # Those of a transformation are inside its choice.
    declared += [
        one for choice in declared if isinstance(choice, io.DynamicCombo.Input) for option in choice.options for one in option.inputs
    ]
    assert {one.max for one in declared if one.id in ("seed", "prior_seed")} == {most}
    assert {tuple(one.options) for one in declared if one.id == "memory"} == {("fast", "low memory")}


def test_a_workflow_that_says_low_in_place_of_low_memory_still_runs() -> None:
    impress = registered()["StillguardPurifyImpress"]
    assert all(impress.validate_inputs(memory=given) for given in ("fast", "low memory", "low", None))
    assert not impress.validate_inputs(memory="lowest")


def test_only_methods_of_stable_diffusion_ask_for_its_vae() -> None:
    asking = {node.define_schema().node_id for node, socket in sockets("VAE") if "Stable Diffusion 1.5" in (socket.tooltip or "")}
    methods = {"Dormant", "ReferenceNetFeatureLoss", "FrameIncoherenceLoss", "FreezePoseLoss", "AnimatePose"}
    talking = {"Silencer", "AudioNullifyingLoss", "AnimateTalkingHead"}
    assert asking == {f"Stillguard{name}" for name in methods | talking}
