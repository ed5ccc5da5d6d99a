"""Load Talking Head, Audio Nullifying Loss and Animate (Talking Head): in this process, and once in the real server."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from bench import animator_files
from bench.client import Client
from bench.server import ComfyServer
from safetensors.torch import load_file
from stillguard.engine.animators.talking_head.masks import face_masks
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from stillguard.engine.weights.reading import WeightsError
from support import node
from torch import Tensor
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model

pytestmark = pytest.mark.usefixtures("comfy")

LAYERS, WIDTH = 2, 16
SMALL = {"widths": (32, 32, 64, 64), "context": 16, "audio": (5 * LAYERS * WIDTH, 6, 24)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return animator_files.talking_head(tmp_path_factory.mktemp("talking"), **SMALL)


@pytest.fixture(scope="module")
def loaded(comfy: None, file: Path) -> Any:
    from stillguard.nodes.bridge.surrogates.talking_head import talking_head_from

    with torch.inference_mode():
        return talking_head_from(file, "fp32")


@pytest.fixture(scope="module")
def encoder(comfy: None) -> Any:
    from testkit import tiny_audio_encoder

    return tiny_audio_encoder(LAYERS, WIDTH)


@pytest.fixture(scope="module")
def vae(comfy: None) -> Any:
    from testkit import eightfold_vae

    return eightfold_vae()


@pytest.fixture(scope="module")
def photo(astronaut: Tensor) -> Tensor:
    """IMAGE, wider than high."""
    return F.interpolate(astronaut, size=(64, 80), mode="area").movedim(1, -1)


def voice(seconds: float = 0.4, rate: int = 16000, channels: int = 1) -> dict[str, Any]:
    noise = torch.randn(1, 1, round(seconds * rate), generator=torch.Generator().manual_seed(0))
    return {"waveform": (noise * 0.1).expand(-1, channels, -1), "sample_rate": rate}


def masks(height: int = 64, width: int = 80) -> dict[str, Tensor]:
    face, lips = torch.zeros(1, height, width), torch.zeros(1, height, width)
    face[:, 10:50, 20:60], lips[:, 36:44, 32:48] = 1, 1
    return {"face_mask": face, "lips_mask": lips}


class Faces:
    """In place of core's face detector: meshes over these boxes (left, top, right, bottom)."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes

    def detect_batch(self, pictures: list[Any], **_: Any) -> list[list[dict[str, Any]]]:
        return [[{"landmarks_xy": self.mesh(*box)} for box in self.boxes] for _ in pictures]

    @staticmethod
    def mesh(left: float, top: float, right: float, bottom: float) -> np.ndarray[Any, Any]:
        return np.random.default_rng(0).uniform((left, top), (right, bottom), (478, 2))


class Analysis:
    """In place of insightface."""

    def __init__(self, numbers: int = 16, *, found: bool = True) -> None:
        self.numbers, self.found = numbers, found

    def get(self, picture: np.ndarray[Any, Any]) -> list[Any]:
        box = np.array([0, 0, 9, 9])
        embedding = np.full(self.numbers, 20.0)
        return [SimpleNamespace(bbox=box, embedding=embedding, normed_embedding=embedding / 80)] if self.found else []


@pytest.fixture(scope="module")
def sockets(loaded: Any, encoder: Any, vae: Any, photo: Tensor) -> dict[str, Any]:
    return {"talking_head": loaded, "vae": vae, "audio_encoder": encoder, "audio": voice(), "image": photo, **masks()}


def loss(sockets: dict[str, Any], **changed: Any) -> Any:
    """The node's one LossSpec."""
    from stillguard.nodes.losses.silencer import FAITHFUL, AudioNullifyingLoss

    told = {"weight": 1.0, "network": FAITHFUL, "windows": "reference", "audio_dropout": 0.05}
    with torch.inference_mode():
        return AudioNullifyingLoss.PREPARE_CLASS_CLONE(None).execute(**{**sockets, **told, **changed}).args[0][0]


def protected(spec: Any, photo: Tensor, *, steps: int, low_memory: bool = False, seed: int = 1) -> tuple[Tensor, list[float]]:
    """The result, and the loss of each step."""
    from stillguard.engine import RGB, Sign
    from stillguard.nodes.bridge.progress import Progress
    from stillguard.nodes.bridge.protect import run

    losses: list[float] = []
    settings = run.Settings(run.space_spec(RGB(16.0)), Sign(2.0), None, 80, steps, seed, low_memory=low_memory)
    report = lambda self, step, **_: losses.extend(step.losses.values())  # noqa: E731
    with torch.inference_mode(), mock.patch.object(Progress, "report", report):
        return run.protect_images(photo, (spec,), settings, mask=None, node_id=None)[0], losses


# What Hallo hears.


def as_published(encoder: Any) -> Wav2Vec2Model:
    """Transformers' network, which Hallo runs, with the weights of core's."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH}
    network = Wav2Vec2Model(Wav2Vec2Config(**sizes, feat_extract_norm="group", conv_bias=False, do_stable_layer_norm=False)).eval()
    network.load_state_dict(encoder.get_sd())
    return network


def test_speech_is_resampled_before_the_transformer_as_hallo_does_it(encoder: Any, loaded: Any) -> None:
    """Against transformers' own network of the same weights, as Hallo runs it: also where the sound is quiet, off centre and stereo."""
    from stillguard.nodes.bridge.surrogates.speech import heard

    sound = voice(0.5)
    sound["waveform"] = torch.cat([sound["waveform"] * 0.02 + 0.1, sound["waveform"] * 0.06 + 0.3], dim=1)
    with torch.inference_mode():
        speech = heard(encoder, sound, loaded.head, multiple=8)
    assert speech.features.shape == (16, LAYERS, WIDTH)
    assert speech.frames == 13
    assert not speech.features.is_inference()
    mono = sound["waveform"][0].mean(0)
    normal = F.pad((mono - mono.mean()) / mono.std(correction=0), (0, 3 * 640))
    twin = as_published(encoder)
    resample = partial(F.interpolate, size=16, mode="linear", align_corners=True)
    twin.feature_extractor.register_forward_hook(lambda module, inputs, sounds: resample(sounds))
    with torch.no_grad():
        expected = torch.stack(twin(normal[None], output_hidden_states=True).hidden_states[1:], dim=2)[0]
    torch.testing.assert_close(speech.features, expected, atol=1e-4, rtol=1e-4)


def test_any_rate_gives_a_frame_for_each_twenty_fifth_of_a_second(encoder: Any, loaded: Any) -> None:
    from stillguard.nodes.bridge.surrogates.speech import heard

    for rate in (16000, 22050, 48000):
        assert heard(encoder, voice(1.0, rate, channels=2), loaded.head).features.shape[0] == 25


# The loss.


@pytest.mark.parametrize("network", ["faithful (as Hallo generates)", "reference (as published)"])
def test_protect_lowers_the_loss_and_both_memories_agree(sockets: dict[str, Any], photo: Tensor, network: str) -> None:
    """Of one draw of noise, timestep and speech, step by step: with random weights one draw says nothing of another."""
    spec = loss(sockets, network=network, audio_dropout=0.0)
    picture, losses = photo, list[float]()
    for _ in range(4):
        picture, measured = protected(spec, picture, steps=1)
        losses += measured
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.99 * losses[0]
    fast, frugal = (protected(spec, photo, steps=3, low_memory=low)[1] for low in (False, True))
    assert frugal == pytest.approx(fast, rel=1e-4)


def test_a_step_takes_what_was_counted(loaded: Any) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.talking_head import frame_pass, portrait_pass, talking_head_views

    with autograd_session():
        surrogates = Surrogates()
        net, head = talking_head_views(surrogates, loaded)
        assert talking_head_views(surrogates, loaded) == (net, head)
        latent, tokens = torch.rand(1, 4, 16, 24).requires_grad_(), torch.rand(1, 4, 16)
        with LiveBytes() as count:
            features = net(latent, 0, tokens)
            torch.autograd.backward(features, [torch.ones_like(one) for one in features])
        assert portrait_pass(net, 4).footprint(128, 192, low_memory=False).peak == pytest.approx(count.peak, rel=0.1)
        bank = {name: one.detach().requires_grad_() for name, one in zip(net.names, features, strict=True)}
        motion = {name: one[:, None].expand(-1, 2, -1, -1) for name, one in bank.items()}
        levels = tuple(torch.ones(3, 1, 16 // 2**level, 24 // 2**level) for level in range(4))
        with LiveBytes() as count:
            told = torch.rand(1, 32, 16, 24), torch.rand(1, 1, 6, 24), levels, bank, motion
            head.denoise(torch.rand(1, 4, 1, 16, 24), 5, tokens, *told).sum().backward()
        assert frame_pass(head).footprint(128, 192, low_memory=False).peak == pytest.approx(count.peak, rel=0.1)


def test_the_detector_and_masks_say_where_the_face_is(loaded: Any, photo: Tensor) -> None:
    """The largest face counts; masks count more than the detector, and what they leave is background."""
    from stillguard.nodes.bridge.surrogates.talking_face import FaceSockets

    small, large = (2, 2, 10, 10), (20, 10, 60, 50)
    found = FaceSockets(Faces(small, large)).face(photo, loaded.head)
    expected = face_masks([torch.from_numpy(Faces.mesh(*large)).float()], 64, 80)
    assert torch.equal(found.region, expected.region)
    assert torch.equal(found.regions.maps, expected.regions.maps)
    assert not found.embedding.any()
    drawn = FaceSockets(Faces(small), **masks(), insightface=Analysis()).face(photo, loaded.head)
    assert torch.equal(drawn.region[0], masks()["face_mask"])
    background, face, lips = drawn.regions.maps
    assert torch.equal(background + face + lips, torch.ones(64, 80))
    assert torch.equal(lips, masks()["lips_mask"][0])
    # As long as the network gives it: Hallo does not shorten it to 1.
    assert drawn.embedding.tolist() == [[20.0] * 16]


# The attack.


def animated(sockets: dict[str, Any], **changed: Any) -> Tensor:
    from stillguard.nodes.attack.animate_talking_head import RECOMMENDED, AnimateTalkingHead

    settings = {"seed": 3, "steps": 2, "guidance": 3.5, "working_size": 64, "profile": RECOMMENDED}
    with torch.inference_mode():
        return AnimateTalkingHead.PREPARE_CLASS_CLONE(None).execute(**{**sockets, **settings, **changed}).args[0]


def test_a_portrait_speaks_as_long_as_the_sound_lasts(sockets: dict[str, Any]) -> None:
    """Two clips, of which the second one is filled up; the picture keeps its aspect."""
    import comfy.utils

    with mock.patch.object(comfy.utils.ProgressBar, "update_absolute") as shown:
        frames = animated(sockets, audio=voice(0.8), working_size=80)
    assert frames.shape == (20, 64, 80, 3)
    assert 0 <= float(frames.min()) < float(frames.max()) <= 1
    assert [call.args[0] for call in shown.call_args_list if "preview" in call.kwargs] == [1, 2, 3, 4]


def test_the_seed_and_the_profile_count_and_nothing_else_is_random(sockets: dict[str, Any]) -> None:
    known = {**sockets, "insightface": Analysis()}
    frames, again, other, published = (animated(known, steps=1, **one) for one in ({}, {}, {"seed": 4}, {"profile": "reference"}))
    assert torch.equal(frames, again)
    assert not torch.equal(frames, other)
    assert not torch.equal(frames, published)


def test_it_can_be_cancelled_between_steps(sockets: dict[str, Any]) -> None:
    import comfy.model_management as management

    cancel = mock.Mock(side_effect=[None, management.InterruptProcessingException])
    with (
        mock.patch.object(management, "throw_exception_if_processing_interrupted", cancel),
        mock.patch.object(sockets["vae"], "decode") as decoded,
        pytest.raises(management.InterruptProcessingException),
    ):
        animated(sockets, steps=1000)
    assert not decoded.called


# Mistakes.


def without(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"audio": {**voice(), "waveform": torch.zeros(1, 1, 9000)}}, "^The sound is silent, so that there is nothing to say: connect one"),
        ({"audio": voice(0.1)}, r"^The sound lasts 0.10 s and the talking head hears 0.20 s around each frame: give a longer one\.$"),
        ({"audio": {**voice(), "waveform": torch.full((1, 1, 9000), float("nan"))}}, "^The sound has samples that are not numbers"),
        ({"audio": {**voice(), "waveform": torch.rand(2, 1, 9000)}}, "^`audio` holds 2 sounds, and a portrait speaks one: connect one"),
        ({"audio": {**voice(), "waveform": torch.zeros(1, 1, 0)}}, "^The sound holds no samples: load another one"),
        ({"audio": 3}, "^What is connected to `audio` is no sound: connect Load Audio"),
        ({"audio_encoder": SimpleNamespace(model=Faces())}, "^The audio encoder is a Faces and the talking head reads wav2vec2-base"),
        ({"image": torch.rand(2, 64, 80, 3)}, "^`image` holds 2 pictures, and one speaks at a time: choose one"),
        ({"image": torch.full((1, 64, 80, 3), float("nan"))}, "pixels that are not numbers"),
        (without("face_mask", "lips_mask"), "^Nothing says where the face is: connect Load Face Detection Model"),
        (without("lips_mask"), "^The talking head is told where the face is and where the lips are: connect lips_mask too"),
        ({"lips_mask": torch.zeros(1, 64, 80)}, "^`lips_mask` is black and says nothing: paint the lips white in it."),
        ({"face_mask": torch.ones(1, 64, 64)}, "^`face_mask` is 64x64 but the picture is 80x64: give a mask of the picture's size"),
        ({"background_mask": torch.ones(2, 64, 80)}, "^`background_mask` holds 2 masks for one picture: give one"),
        ({**without("face_mask", "lips_mask"), "face_detection_model": Faces()}, "^There is no face in the picture: use one in which"),
        ({**without("face_mask", "lips_mask"), "face_detection_model": 3}, "face detection model is a int .*: connect Load Face Detection"),
        ({"insightface": Analysis(found=False)}, "^InsightFace found no face in the picture: disconnect insightface, or use"),
        ({"insightface": Analysis(512)}, "^InsightFace gives 512 numbers for a face and the talking head reads 16: load antelopev2"),
        ({"vae": SimpleNamespace(latent_channels=16, latent_dim=3)}, "^The VAE makes latents of 16 channels of a video and the"),
    ],
)
def test_what_cannot_speak(sockets: dict[str, Any], changed: dict[str, Any], sentence: str) -> None:
    for use in (loss, animated):
        with pytest.raises(ValueError, match=sentence):
            use({**sockets, **changed})


def test_an_encoder_of_another_size_is_refused_before_it_is_run(sockets: dict[str, Any]) -> None:
    from testkit import tiny_audio_encoder

    with pytest.raises(ValueError, match=r"^The audio encoder gives 3 layers of 16 numbers, .*: use wav2vec2-base\.$"):
        loss({**sockets, "audio_encoder": tiny_audio_encoder(3, WIDTH)})


def test_what_needs_a_distribution_says_so_where_the_vae_has_none(sockets: dict[str, Any], photo: Tensor) -> None:
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))
    shipped = {**sockets, "vae": nodes.VAELoader().load_vae(SHIPPED.name)[0]}
    with pytest.raises(ValueError, match=r"has no distribution to draw it from, as the published protection does: load the VAE of SD 1\.5"):
        protected(loss(shipped, network="reference (as published)"), photo, steps=1)


def test_a_batch_has_one_face_too_many(sockets: dict[str, Any], photo: Tensor) -> None:
    with pytest.raises(ValueError, match="There are 2 photos, and the audio loss has the face of one: protect them one by one"):
        protected(loss(sockets), photo.expand(2, -1, -1, -1), steps=1)


def test_files_that_are_none(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths
    from stillguard.nodes.surrogates.talking_heads import LoadTalkingHead

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(tmp_path)], {".pth", ".safetensors"}))
    folder_paths.filename_list_cache.pop("stillguard", None)
    (option,) = (one for one in LoadTalkingHead.define_schema().inputs if one.id == "file")
    assert option.options[0] == "net.pth"
    with pytest.raises(FileNotFoundError, match=r"net.pth or hallo/net.pth is missing \(Hallo's talking head, .*\): download it from"):
        LoadTalkingHead.execute(file="net.pth", precision="fp32")
    animator_files.magic_animate(tmp_path).rename(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"^other.safetensors is not Hallo's talking head: choose its net.pth\.$"):
        LoadTalkingHead.execute(file="other.safetensors", precision="fp32")
    (tmp_path / "hallo").mkdir()
    torch.save(load_file(file), tmp_path / "hallo" / "net.pth")
    given = LoadTalkingHead.execute(file="net.pth", precision="bf16").args[0]
    assert given.name == "net.pth"
    assert given.head.dtype == given.net.unet.dtype == torch.bfloat16
    assert given.in_fp32().head.dtype == torch.float32


# In the server.


def base_encoder(file: Path) -> None:
    """wav2vec2-base with random weights, the smallest that core's loader takes."""
    from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model as Network
    from comfy.ops import disable_weight_init

    shape = {"embed_dim": 768, "num_heads": 12, "num_layers": 12, "conv_norm": False, "conv_bias": False}
    with torch.device("meta"):
        network = Network(**shape, do_normalize=False, do_stable_layer_norm=False, operations=disable_weight_init)
    shapes = {f"wav2vec2.{key}": tuple(value.shape) for key, value in network.state_dict().items()}
    animator_files.write(file, animator_files.random_state(shapes, seed=5, dtype=torch.float16))


def test_real_speech_protects_and_attacks_in_the_server(client: Client, server: ComfyServer, shared: Path) -> None:
    models = server.base / "models"
    (models / "talking").mkdir(exist_ok=True)
    animator_files.talking_head(models / "talking", widths=(32, 32, 64, 64), context=16, audio=(5 * 12 * 768, 6, 24)).rename(
        models / "stillguard" / "hallo.safetensors"
    )
    base_encoder(models / "audio_encoders" / "wav2vec2_base.safetensors")
    shutil.copy(shared / "media" / "audio" / "data_198-209-0000.ogg", server.base / "input" / "speech.ogg")
    where = {"face_mask": ["face", 0], "lips_mask": ["lips", 0]}
    told = {"talking_head": ["head", 0], "vae": ["vae", 0], "audio_encoder": ["encoder", 0], "audio": ["speech", 0], **where}
    attack = {**told, "seed": 1, "steps": 1, "guidance": 3.5, "working_size": 64, "profile": "recommended"}
    protect = {"budget": 8.0, "steps": 2, "update": "momentum sign", "update.step": 1.0, "update.decay": 0.5, "seed": 1, "working_size": 64}
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "small": node("ImageScale", image=["load", 0], upscale_method="area", width=64, height=64, crop="disabled"),
        "face": node("SolidMask", value=1.0, width=64, height=64),
        "lips": node("SolidMask", value=0.5, width=64, height=64),
        "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
        "head": node("StillguardLoadTalkingHead", file="hallo.safetensors", precision="auto"),
        "encoder": node("AudioEncoderLoader", audio_encoder_name="wav2vec2_base.safetensors"),
        "whole": node("LoadAudio", audio="speech.ogg"),
        "speech": node("TrimAudioDuration", audio=["whole", 0], start_index=1.0, duration=0.8),
        "loss": node(
            "StillguardAudioNullifyingLoss",
            **{**told, "image": ["small", 0], "weight": 1.0, "network": "faithful (as Hallo generates)"},
            windows="several",
            audio_dropout=0.05,
        ),
        "protect": node("StillguardProtect", image=["small", 0], loss=["loss", 0], memory="low memory", **protect),
        "attack": node("StillguardAnimateTalkingHead", image=["protect", 0], **attack),
        "look": node("PreviewImage", images=["attack", 0]),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    assert len(result.outputs["look"]["images"]) == 20
    assert [event for event in result.of("binary3") if b"step 2 of 2: Audio Nullifying" in event.payload]
    graph["speech"] = node("EmptyAudio", duration=0.5, sample_rate=44100, channels=2)
    result = client.run(graph)
    assert result.status == "error"
    assert "The sound is silent" in result.error


# Silencer.


PRESET = {"budget": 8.0, "steps": 3, "second_steps": 6, "seed": 1, "working_size": 80, "memory": "fast"}


def silencer(sockets: dict[str, Any], **changed: Any) -> tuple[Tensor, float, Tensor]:
    """Protected, budget, and the photo as it was protected."""
    from stillguard.nodes.protect.silencer import Silencer

    clone = Silencer.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with torch.inference_mode():
        protected, _, budget, clean = clone.execute(**{**sockets, **PRESET, "profile": "recommended", "stages": "first", **changed}).args
    return protected, budget, clean


def test_the_first_stage_is_protect_with_the_nullifying_loss(sockets: dict[str, Any], photo: Tensor) -> None:
    from stillguard.engine import RGB, Sign
    from stillguard.nodes.bridge.protect import run

    made, budget, clean = silencer(sockets)
    settings = run.Settings(run.space_spec(RGB(8.0)), Sign(1.0, "linear"), None, 80, 3, 1, low_memory=False)
    with torch.inference_mode():
        by_hand = run.protect_images(photo, (loss(sockets),), settings, mask=None, node_id=None)[0]
    assert torch.equal(made, by_hand)
    assert torch.equal(clean, photo)
    assert budget == 8


def test_the_second_stage_begins_at_the_photo_and_is_held_by_the_first(sockets: dict[str, Any], photo: Tensor) -> None:
    from stillguard.nodes.protect import silencer as preset

    first, _, _ = silencer(sockets)
    asked: list[tuple[Tensor, Any, Any]] = []
    actual = preset.protect_images

    def watched(image: Tensor, losses: Any, settings: Any, **others: Any) -> Any:
        asked.append((image, losses, settings))
        return actual(image, losses, settings, **others)

    with mock.patch.object(preset, "protect_images", watched):
        made, budget, _ = silencer(sockets, stages="first, then second")
    (_, (null,), _), (begun, (again, anchor), settings) = asked
    assert torch.equal(begun, photo)
    assert (null.name, null.weight, again.weight) == ("Audio Nullifying", -1.0, -1.0)
    # The paper's 10, for latents times 0.18215.
    assert anchor.weight == pytest.approx(-10 * 0.18215**2)
    assert not anchor.scaled
    assert settings.steps == 6
    assert settings.space.budget is None
    assert budget == pytest.approx(float((made - photo).abs().max() * 255), abs=0.51)
    assert not torch.equal(made, first)


def test_the_reference_profile_works_on_a_square_and_low_memory_agrees(sockets: dict[str, Any]) -> None:
    published = {"profile": "reference", "stages": "first, then second"}
    made, _, clean = silencer(sockets, **published)
    assert made.shape == clean.shape == (1, 80, 80, 3)
    frugal, _, _ = silencer(sockets, **published, memory="low memory")
    assert float((frugal - made).abs().mean()) < 0.5 / 255


def test_one_portrait_speaks_at_a_time(sockets: dict[str, Any], photo: Tensor) -> None:
    with pytest.raises(ValueError, match="one speaks at a time"):
        silencer({**sockets, "image": photo.repeat(2, 1, 1, 1)})
