"""The pack in the real ComfyUI server, through its HTTP and websocket interface."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.client import Client
from bench.prompt import load_prompt
from bench.server import ComfyServer
from PIL import Image
from safetensors.torch import load_file
from support import OWN_WORKFLOWS, Graph, make_quick, node

NODES = {
    "StillguardVAELatentLoss",
    "StillguardCLIPSemanticLoss",
    "StillguardLPIPSPenalty",
    "StillguardCombineLosses",
    "StillguardEoT",
    "StillguardProtect",
    "StillguardDualSpace",
    "StillguardLatentSpace",
    "StillguardPerturbationVisibility",
    "StillguardCompareVideos",
    "StillguardProtectionReport",
    "StillguardLayerProbe",
    "StillguardSaveProtectedImage",
    "StillguardLoadReferenceNet",
    "StillguardLoadPoseAnimator",
    "StillguardLoadImageEncoder",
    "StillguardReferenceNetFeatureLoss",
    "StillguardFrameIncoherenceLoss",
    "StillguardDormant",
    "StillguardAnimatePose",
    "StillguardAnimateLabVictim",
    "StillguardRandomNoise",
    "StillguardCheckCopy",
    "StillguardInstalledVictims",
    "StillguardTransformImage",
    "StillguardLoadADM",
    "StillguardPurifyImpress",
    "StillguardPurifyDiffPure",
    "StillguardPurifyDDSPure",
    "StillguardPurifyGrIDPure",
    "StillguardPurifyDiffShortcut",
    "StillguardPurifyNoisyUpscaling",
    "StillguardI2VSurrogate",
    "StillguardDiffusionSurrogate",
    "StillguardLearningSurrogate",
    "StillguardTargetLatentLoss",
    "StillguardContrastiveFramesLoss",
    "StillguardTemporalAttentionLoss",
    "StillguardDisobedienceLoss",
    "StillguardTearLoss",
    "StillguardFreezePoseLoss",
    "StillguardFreezeVideoLoss",
    "StillguardL2Penalty",
    "StillguardRepresentationCollapseLoss",
    "StillguardRepresentationAnchorLoss",
    "StillguardDenoisingLoss",
    "StillguardVelocityMinLoss",
    "StillguardDenoisingErrorLoss",
    "StillguardScoreDistillationLoss",
    "StillguardTargetScoreLoss",
    "StillguardLatentNormLoss",
    "StillguardDiffusionBaseline",
    "StillguardVGMShield",
    "StillguardEarlyNoiseLoss",
    "StillguardRepaintedLoss",
    "StillguardInpaintingBaseline",
    "StillguardI2VGuard",
    "StillguardAntiI2V",
    "StillguardSilencer",
    "StillguardLoadFaceAnimator",
    "StillguardFramePortrait",
    "StillguardAnimateFace",
    "StillguardLoadTalkingHead",
    "StillguardAudioNullifyingLoss",
    "StillguardAnimateTalkingHead",
}
ROOT = Path(__file__).parents[2]
Build = Callable[..., Graph]
# Wan Animate looks at faces of 512 pixels, however small the video.
SLOW = {"attack_wan_animate": pytest.mark.slow}
# They run in test_attack_chain.py and in test_silencer_workflow.py.
ELSEWHERE = ("attack_svd", "attack_silencer")
RUN = [pytest.param(path, id=path.stem, marks=SLOW.get(path.stem, ())) for path in OWN_WORKFLOWS if path.stem not in ELSEWHERE]


def levels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data))).astype(int)


def save_levels(source: str) -> dict[str, object]:
    """Rounded as ours; core's Save Image truncates, which shows where a picture is not on the 8-bit grid."""
    return node(
        "StillguardSaveProtectedImage", images=[source, 0], filename_prefix="test/clean", format="png", budget=8.0, keep_workflow=False
    )


def saved(client: Client, result: object, name: str = "save") -> bytes:
    return client.view(result.outputs[name]["images"][0])


def test_every_node_is_there_with_tooltips_and_a_help_page(client: Client) -> None:
    info = client.object_info()
    ours = {name: facts for name, facts in info.items() if name.startswith("Stillguard")}
    assert set(ours) == NODES
    for name, facts in ours.items():
        assert facts["category"].startswith("stillguard")
        assert facts["description"]
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for group in ("required", "optional"):
            for key, (_, *options) in facts["input"].get(group, {}).items():
                assert f"`{key}`" in page, f"{name}.md does not speak of {key}"
                assert key in ("image", "images", "clean", "protected", "losses") or options[0].get("tooltip"), (name, key)


def test_protects_saves_and_reports_progress(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(steps=4)
    graph["measure"] = node(
        "StillguardPerturbationVisibility", clean=["small", 0], protected=["protect", 0], lpips_backbone="lpips_vgg16.safetensors"
    )
    graph["clean"] = save_levels("small")
    graph["shown"] = node("SaveImage", images=["protect", 1], filename_prefix="test/perturbation")
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, protected, shown = (levels(saved(client, result, name)) for name in ("clean", "save", "shown"))
    assert protected.shape == clean.shape
    assert np.abs(protected - clean).max() == 8
    # The perturbation output shows the same thing: 127.5 plus 127.5/8 per level, truncated by core's Save Image.
    assert np.abs(shown - (127.5 + (protected - clean) * 127.5 / 8)).max() <= 1
    steps = [event.data["value"] for event in result.of("progress") if event.data["node"] == "protect"]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    previews = result.of("binary4")
    assert previews
    assert previews[-1].data["node_id"] == "protect"
    picture = Image.open(io.BytesIO(previews[-1].payload))
    assert picture.width == 2 * picture.height  # picture and amplified perturbation side by side
    text = result.outputs["measure"]["text"][0]
    assert "L-infinity 8 levels" in text
    assert "LPIPS 0." in text
    assert [event for event in result.of("binary3") if b"step 4 of 4: VAE Latent" in event.payload]
    assert "differs by at most 8 levels" in result.outputs["save"]["text"][0]


def test_a_loss_of_another_pack_protects_with_a_users_diffusion_model(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(loss=["denoising", 0], working_size=128)
    graph["model"] = node("TestkitTinyImageModel", kind="sd15")
    graph["prompt"] = node("TestkitTinyConditioning", width=16)
    sockets = {"model": ["model", 0], "vae": ["vae", 0], "positive": ["prompt", 0]}
    graph["surrogate"] = node("StillguardDiffusionSurrogate", **sockets)
    graph["denoising"] = node("TestkitDenoisingLoss", diffusion_surrogate=["surrogate", 0], weight=1.0)
    graph["small"]["inputs"].update(width=128, height=128)
    graph["clean"] = save_levels("small")
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, protected = (levels(saved(client, result, name)) for name in ("clean", "save"))
    assert np.abs(protected - clean).max() == 8
    assert [event for event in result.of("binary3") if b"step 3 of 3: Denoising" in event.payload]


def test_a_loss_makes_another_picture_on_a_surrogate_that_learns(client: Client, protect_graph: Build) -> None:
    """Steps that differ by nothing make each run a new one for ComfyUI's cache."""
    pictures: list[np.ndarray] = []
    for learns in (True, True, False):
        graph = protect_graph(loss=["denoising", 0], working_size=128, steps=4, **{"update.step": 1 + len(pictures) * 1e-7})
        graph["model"] = node("TestkitTinyImageModel", kind="sd15")
        graph["prompt"] = node("TestkitTinyConditioning", width=16)
        graph["surrogate"] = node("StillguardDiffusionSurrogate", model=["model", 0], vae=["vae", 0], positive=["prompt", 0])
        rounds = {"method": "co-training", "method.every": 2, "method.training_steps": 2}
        sockets = {"diffusion_surrogate": ["surrogate", 0], "instance_prompt": ["prompt", 0]}
        graph["learning"] = node("StillguardLearningSurrogate", **sockets, **rounds, rank=4, learning_rate=0.01, prior_weight=0.1)
        read = ["learning" if learns else "surrogate", 0]
        graph["denoising"] = node("StillguardDenoisingErrorLoss", diffusion_surrogate=read, weight=1.0, direction="away from it (+)")
        graph["small"]["inputs"].update(width=128, height=128)
        result = client.run(graph)
        assert result.status == "success", result.error
        pictures.append(levels(saved(client, result)))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_a_baseline_runs_on_a_checkpoint_that_cores_loader_reads(client: Client, protect_graph: Build) -> None:
    """Mist v1, whose published form draws from a distribution that this checkpoint's VAE has not."""
    graph = protect_graph(working_size=128)
    del graph["latent"], graph["lpips"], graph["combine"]
    graph["small"]["inputs"].update(width=128, height=128)
    graph["clean"] = save_levels("small")
    graph["checkpoint"] = node("CheckpointLoaderSimple", ckpt_name="tiny_sd15.safetensors")
    graph["prompt"] = node("TestkitTinyConditioning", width=768)
    sockets = {"model": ["checkpoint", 0], "vae": ["checkpoint", 2], "positive": ["prompt", 0]}
    graph["surrogate"] = node("StillguardDiffusionSurrogate", **sockets)
    run = {"method": "Mist v1", "steps": 2, "seed": 1, "working_size": 128, "memory": "fast"}
    sizes = {"settings": "recommended", "settings.budget": 6.0, "settings.step": 1.0}
    graph["protect"] = node("StillguardDiffusionBaseline", image=["small", 0], diffusion_surrogate=["surrogate", 0], **run, **sizes)
    graph["save"]["inputs"]["budget"] = ["protect", 2]
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, protected = (levels(saved(client, result, name)) for name in ("clean", "save"))
    assert 1 <= np.abs(protected - clean).max() <= 6
    assert [event for event in result.of("binary3") if b"step 2 of 2: Texture" in event.payload]
    for name in sizes:
        graph["protect"]["inputs"].pop(name)
    graph["protect"]["inputs"]["settings"] = "as published"
    assert "load the VAE of SD 1.5, or choose the recommended form" in str(client.run(graph).error)


def test_protects_what_an_editor_keeps_from_his_inpainting_model(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(working_size=128)
    del graph["latent"], graph["lpips"], graph["combine"]
    graph["small"]["inputs"].update(width=128, height=128)
    graph["clean"] = save_levels("small")
    graph["model"] = node("TestkitTinyImageModel", kind="sd15 inpainting")
    graph["prompt"] = node("TestkitTinyConditioning", width=16)
    graph["surrogate"] = node("StillguardDiffusionSurrogate", model=["model", 0], vae=["vae", 0], positive=["prompt", 0])
    graph["keep"], graph["all"] = (node("SolidMask", value=value, width=side, height=side) for value, side in ((0.0, 64), (1.0, 128)))
    graph["mask"] = node("MaskComposite", destination=["all", 0], source=["keep", 0], x=32, y=40, operation="multiply")
    common = {"image": ["small", 0], "steps": 2, "seed": 1, "working_size": 128, "memory": "fast"}
    sockets = {"diffusion_surrogate": ["surrogate", 0], "repaint_mask": ["mask", 0]}
    method = {"method": "PhotoGuard (L2)", "method.radius": 2.3, "method.step": 1.5}
    graph["protect"] = node("StillguardInpaintingBaseline", **common, **sockets, **method)
    graph["save"]["inputs"]["budget"] = ["protect", 2]
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, protected = (levels(saved(client, result, name)) for name in ("clean", "save"))
    change = protected - clean
    kept = change[40:104, 32:96].copy()
    change[40:104, 32:96] = 0
    assert not change.any()
    assert 1 < np.sqrt(np.square(kept).mean()) <= 2.3
    assert [event for event in result.of("binary3") if b"step 2 of 2: Repainted" in event.payload]


def test_protects_in_a_latent_space_without_a_budget(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(loss=["latent", 0], space=["space", 0], **{"update": "adamw", "update.weight_decay": 0.01, "update.decay": None})
    settings = {"mode": "decoder", "form": "difference", "trust_region": 0.0, "start": "near the photo", "freeze": "keep the mask as it is"}
    graph["space"] = node("StillguardLatentSpace", vae=["vae", 0], freeze_step=100, **settings)
    graph["save"]["inputs"]["budget"] = ["protect", 2]
    graph["clean"] = save_levels("small")
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, protected = (levels(saved(client, result, name)) for name in ("clean", "save"))
    largest = np.abs(protected - clean).max()
    assert largest >= 1
    said = [event.payload for event in result.of("binary3")]
    assert any(b"budget of the node is ignored" in text and f"L-infinity {largest} levels".encode() in text for text in said)
    assert f"differs by at most {largest} level" in result.outputs["save"]["text"][0]


@pytest.mark.parametrize("workflow", RUN)
def test_a_workflow_file_runs_through_the_api(client: Client, workflow: Path) -> None:
    """As the demo does it, with three steps at a small working size; nothing that it writes holds a recipe."""
    prompt = make_quick(load_prompt(workflow, client.object_info()))
    result = client.run(prompt)
    assert result.status == "success", result.error
    pictures = [image for output in result.outputs.values() for image in output.get("images", []) if image["type"] == "output"]
    stills = [picture for picture in pictures if picture["filename"].endswith((".png", ".webp"))]
    assert stills
    assert all(Image.open(io.BytesIO(client.view(picture))).info == {} for picture in stills)


def test_the_saved_file_carries_nothing_but_pixels(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(seed=11)
    graph["keep"] = {**graph["save"], "inputs": {**graph["save"]["inputs"], "keep_workflow": True}}
    result = client.run(graph)
    bare, kept = (Image.open(io.BytesIO(saved(client, result, name))) for name in ("save", "keep"))
    assert bare.info == {}
    assert not bare.getexif()
    assert "StillguardProtect" in kept.info["prompt"]


def test_files_are_numbered_and_never_overwritten(client: Client, server: ComfyServer, protect_graph: Build) -> None:
    graph = protect_graph(seed=12, steps=1)
    graph["save"]["inputs"]["filename_prefix"] = "test/numbered"
    first = client.run(graph).outputs["save"]["images"][0]["filename"]
    content = (server.base / "output" / "test" / first).read_bytes()
    graph["protect"]["inputs"]["seed"] = 13
    second = client.run(graph).outputs["save"]["images"][0]["filename"]
    assert first != second
    assert (server.base / "output" / "test" / first).read_bytes() == content


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "test/../../outside"])
def test_cannot_write_outside_the_output_folder(client: Client, server: ComfyServer, protect_graph: Build, prefix: str) -> None:
    graph = protect_graph(steps=1)
    graph["save"]["inputs"]["filename_prefix"] = prefix
    result = client.run(graph)
    assert result.status == "error" or not list(server.base.parent.glob("outside*"))
    assert not list(server.base.parent.glob("outside*"))
    assert not list(Path("/tmp").glob("outside_0*"))


def test_alpha_batches_and_odd_sizes(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(image=["alpha", 0], steps=2)
    graph["odd"] = node("ImageScale", image=["load", 0], upscale_method="area", width=37, height=53, crop="disabled")
    graph["transparent"] = node("SolidMask", value=0.25, width=37, height=53)
    graph["alpha"] = node("JoinImageWithAlpha", image=["two", 0], alpha=["transparent", 0])
    graph["two"] = node("RepeatImageBatch", image=["odd", 0], amount=2)
    result = client.run(graph)
    assert result.status == "success", result.error
    pictures = [levels(client.view(image)) for image in result.outputs["save"]["images"]]
    assert [picture.shape for picture in pictures] == [(53, 37, 4)] * 2
    assert all((picture[..., 3] == round(0.75 * 255)).all() for picture in pictures)
    assert (pictures[0] != pictures[1]).any()  # a seed of its own for each picture of a batch


def test_a_mask_protects_only_its_region(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(mask=["half", 0], seed=3)
    graph["left"] = node("SolidMask", value=1.0, width=32, height=64)
    graph["nothing"] = node("SolidMask", value=0.0, width=64, height=64)
    graph["half"] = node("MaskComposite", destination=["nothing", 0], source=["left", 0], x=0, y=0, operation="add")
    graph["clean"] = save_levels("small")
    result = client.run(graph)
    assert result.status == "success", result.error
    change = np.abs(levels(saved(client, result)) - levels(saved(client, result, "clean")))
    assert change[:, 32:].max() == 0
    assert change[:, :32].max() == 8


def test_clip_semantic_loss_and_eot(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(loss=["semantic", 0], eot=["eot", 0], steps=4)
    graph["clip"] = node("TestkitTinyCLIPVision")
    graph["semantic"] = node("StillguardCLIPSemanticLoss", clip_vision=["clip", 0], weight=10.0)
    ranges = {"blur_low": 0.1, "blur_high": 3.0, "jpeg_low": 30, "jpeg_high": 69, "noise_high": 0.03, "resize_low": 0.5, "resize_high": 2.0}
    switches = dict.fromkeys(("blur", "jpeg", "noise", "resize", "identity"), True)
    graph["eot"] = node("StillguardEoT", **switches, samples=2, **ranges)
    result = client.run(graph)
    assert result.status == "success", result.error


def test_same_seed_gives_the_same_picture_and_low_memory_too(client: Client, protect_graph: Build) -> None:
    """Settings that do not change the result make new cache entries, so that each run is really made."""
    pictures = []
    for changed in ({"memory": "fast"}, {"memory": "low memory"}, {"memory": "fast", "update.step": 1.0000001}):
        result = client.run(protect_graph(seed=21, **changed))
        assert result.status == "success", result.error
        pictures.append(levels(saved(client, result)))
    assert np.array_equal(pictures[0], pictures[2])
    # Recomputed sums may round differently and flip the sign of a vanishing gradient.
    assert (pictures[0] != pictures[1]).mean() < 0.001


def test_interrupting_ends_within_a_step_and_leaves_comfyui_as_it_was(client: Client, server: ComfyServer, protect_graph: Build) -> None:
    """Step 3 of 1000 is cancelled; the next prompt runs, the cached VAE computes the same bits as before, and no graph stays."""

    def encoded(copy: str) -> torch.Tensor:
        picture = server.base / "input" / copy
        picture.write_bytes((server.base / "input" / "astronaut.png").read_bytes())
        graph = {
            "load": node("LoadImage", image=copy),
            "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
            "encode": node("VAEEncode", pixels=["load", 0], vae=["vae", 0]),
            "save": node("SaveLatent", samples=["encode", 0], filename_prefix=f"test/{picture.stem}"),
        }
        result = client.run(graph)
        assert result.status == "success"
        loaded.append("vae" in [name for event in result.of("execution_cached") for name in event.data["nodes"]])
        return load_file(next((server.base / "output" / "test").glob(f"{picture.stem}_*.latent")))["latent_tensor"]

    loaded: list[bool] = []  # whether the VAE came from the cache
    before = encoded("before.png")
    cancelled: list[float] = []

    def cancel(event: object) -> None:
        if event.type == "progress" and event.data["value"] >= 3 and not cancelled:
            cancelled.append(time.monotonic())
            client.interrupt()

    # At this size a step takes about a second, far longer than the request itself.
    result = client.run(protect_graph(image=["load", 0], working_size=256, steps=1000, seed=31), cancel)
    assert result.status == "interrupted"
    assert max(event.data["value"] for event in result.of("progress")) <= 4
    graph = protect_graph(seed=32)
    graph["look"] = node("TestkitInspect", image=["protect", 0])
    after = client.run(graph)
    assert after.status == "success", after.error
    facts = after.outputs["look"]["facts"][0]
    assert facts == {"graphs": 0, "requires_grad": False, "in_training": False, "inference_mode": True}
    assert torch.equal(encoded("after.png"), before)
    assert loaded[-1]


def test_steps_zero_returns_the_picture(client: Client, protect_graph: Build) -> None:
    result = client.run(protect_graph(steps=0))
    assert result.status == "success", result.error
    assert "differs by at most 0 levels" in result.outputs["save"]["text"][0]
