"""What users can give a talking head that it cannot use: one sentence each, from every node that runs it, in the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench.client import Client
from bench.face_files import FILE
from bench.server import ComfyServer
from support import Graph, node

RUNS: dict[str, dict[str, object]] = {
    "StillguardSilencer": {
        "profile": "recommended",
        "stages": "first",
        "budget": 8.0,
        "steps": 1,
        "second_steps": 2,
        "seed": 1,
        "working_size": 64,
        "memory": "fast",
    },
    "StillguardAudioNullifyingLoss": {
        "weight": 1.0,
        "network": "faithful (as Hallo generates)",
        "windows": "reference",
        "audio_dropout": 0.0,
    },
    "StillguardAnimateTalkingHead": {"seed": 1, "steps": 1, "guidance": 1.0, "working_size": 64, "profile": "recommended"},
}
"""The nodes, and their widgets."""

GROUPS = ("pixels", "lpips", "semantics", "consistency", "quality", "faces", "fid", "fvd")

DARK = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
"""A picture in which the tests' detector finds no face."""


@pytest.fixture
def garbage(server: ComfyServer) -> Iterator[str]:
    """An audio file of random bytes."""
    file: Path = server.base / "input" / "garbage.wav"
    file.write_bytes(np.random.default_rng(0).bytes(4096))
    yield file.name
    file.unlink()


def graph(kind: str, **changed: object) -> Graph:
    """The node with a fifth of a second of a voice and the astronaut; keywords replace nodes."""
    told = {"talking_head": "head", "vae": "vae", "audio_encoder": "encoder", "audio": "sound", "image": "image"}
    links = {**{name: [key, 0] for name, key in told.items()}, "face_detection_model": ["detector", 0]}
    nodes = {
        "image": node("LoadImage", image="astronaut.png"),
        "recording": node("LoadAudio", audio="voice.wav"),
        "sound": node("TrimAudioDuration", audio=["recording", 0], start_index=0.0, duration=0.2),
        "head": node("StillguardLoadTalkingHead", file="net.pth", precision="auto"),
        "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
        "encoder": node("TestkitTinyAudioEncoder"),
        "detector": node("LoadMediaPipeFaceLandmarker", model_name=FILE),
        "run": node(kind, **links, **RUNS[kind]),
    }
    if kind == "StillguardAudioNullifyingLoss":
        settings = {"budget": 8.0, "steps": 0, "update": "sign", "update.step": 1.0, "seed": 1, "working_size": 64, "memory": "fast"}
        nodes["protect"] = node("StillguardProtect", image=["image", 0], loss=["run", 0], **settings)
    last = "protect" if "protect" in nodes else "run"
    return {**nodes, "show": node("PreviewImage", images=[last, 0]), **changed}


def failure(client: Client, prompt: Graph) -> str:
    result = client.run(prompt)
    assert result.status == "error"
    return result.error


@pytest.mark.parametrize("kind", RUNS)
def test_sounds_and_pictures_that_cannot_be_used(client: Client, kind: str) -> None:
    def says(sentence: str, **changed: object) -> None:
        assert failure(client, graph(kind, **changed)) == f"{kind}: {sentence}"

    says(
        "The sound is silent, so that there is nothing to say: connect one with speech.",
        sound=node("EmptyAudio", duration=0.5, sample_rate=44100, channels=2),
    )
    says(
        "The sound lasts 0.10 s and the talking head hears 0.20 s around each frame: give a longer one.",
        sound=node("TrimAudioDuration", audio=["recording", 0], start_index=0.0, duration=0.1),
    )
    # The sound of a video that has none.
    says(
        "What is connected to `audio` gives nothing, as a loader whose file lacks it does: connect Load Audio.",
        video=node("LoadVideo", file="pose.mp4"),
        parts=node("GetVideoComponents", video=["video", 0]),
        sound=node("TrimAudioDuration", audio=["parts", 1], start_index=0.0, duration=1.0),
    )
    no_face = "There is no face in the picture: use one in which a face can be seen, or give the masks yourself."
    says(no_face, image=DARK)
    # A video without a face: as it is, and one picture of it.
    video = {"dark": DARK, "video": node("RepeatImageBatch", image=["dark", 0], amount=3)}
    says(
        "`image` holds 3 pictures, and one speaks at a time: choose one with Get Image from Batch.",
        **video,
        image=node("RepeatImageBatch", image=["dark", 0], amount=3),
    )
    says(no_face, **video, image=node("ImageFromBatch", image=["video", 0], batch_index=1, length=1))
    result = client.run(graph(kind))
    assert result.status == "success", result.error


@pytest.mark.parametrize("kind", RUNS)
def test_a_sound_that_cannot_be_read_ends_in_load_audio(client: Client, kind: str, garbage: str) -> None:
    """In core's own words; the page adds what to do, see tests/browser."""
    message = failure(client, graph(kind, sound=node("LoadAudio", audio=garbage)))
    assert message.startswith("LoadAudio: ")
    assert "\n" not in message


def test_videos_without_a_face_are_compared_as_far_as_they_can_be(client: Client) -> None:
    prompt = {
        "dark": DARK,
        "clean": node("RepeatImageBatch", image=["dark", 0], amount=3),
        "noise": node("StillguardRandomNoise", image=["clean", 0], budget=8.0, seed=1),
        "detector": node("LoadMediaPipeFaceLandmarker", model_name=FILE),
        "compare": node(
            "StillguardCompareVideos",
            clean=["clean", 0],
            protected=["noise", 0],
            victim="nobody",
            surrogate=False,
            measures="choose",
            **{f"measures.{group}": group in ("pixels", "faces") for group in GROUPS},
            lpips_backbone="none",
            paper_conventions=False,
            length="equal",
            face_detection_model=["detector", 0],
        ),
    }
    result = client.run(prompt)
    assert result.status == "success", result.error
    table = result.outputs["compare"]["text"][0]
    assert "\n| PSNR (dB) | clean |  | " in table
    assert "M-LMD, F-LMD, M-LVD, F-LVD: not measured: no frame gave a value, as when no face is found." in table
