"""I2V Surrogate and I2VGuard: what does not fit is one sentence, and what is masked is not touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench import video_files
from bench.memory import peak_bytes
from torch import Tensor
from video_models import Loaded, load, randn

Make = Callable[..., object]


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


def surrogate(loaded: Loaded, **changes: object) -> object:
    """What the node returns."""
    from stillguard.nodes.surrogates.video_models import I2VSurrogate

    inputs = {
        "model": loaded.model,
        "vae": loaded.vae,
        "conditioning": "auto",
        "width": 0,
        "height": 0,
        "length": 9,
        "prior_steps": 2,
        "prior_cfg": 1.5,
        "prior_seed": 0,
        "attention_blocks": "auto",
        "clip_vision": loaded.clip_vision,
        "positive": loaded.positive or None,
        **changes,
    }
    return I2VSurrogate.execute(**inputs).args[0]  # type: ignore[arg-type]


def test_it_knows_the_family_and_the_papers_blocks(folder: Path) -> None:
    for name, blocks in (("SVD", (4, 5)), ("Wan", (0, 1)), ("CogVideoX", (0, 1)), ("LTX", (0, 1)), ("Hunyuan (concat)", (0, 1))):
        spec = surrogate(load(name, folder))
        assert spec.family.name == name
        assert spec.blocks == blocks
    # What diffusers calls SVD's last CrossAttnDownBlockSpatioTemporal: nothing is made smaller between the two.
    parts = list(load("SVD", folder).model.model.diffusion_model.input_blocks)
    attending = [index for index, part in enumerate(parts) if any("VideoTransformer" in type(inner).__name__ for inner in part)]
    assert attending[-2] + 1 == attending[-1]
    assert len(attending) == 6
    assert surrogate(load("Hunyuan (concat)", folder), conditioning="Hunyuan (replace)").family.name == "Hunyuan (replace)"
    assert surrogate(load("Wan", folder), attention_blocks=" 2, 0").blocks == (0, 2)


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("Wan", {"length": 8}, "Wan makes videos of 1 frame and a multiple of 4, and not of 8: choose 5 or 9"),
        ("LTX", {"length": 10}, "LTX makes videos of 1 frame and a multiple of 8, and not of 10: choose 9 or 17"),
        ("Wan", {"width": 72}, "needs sides that are multiples of 16, and 72 is not"),
        ("SVD", {"clip_vision": None}, "SVD looks at the picture through an image encoder too: connect clip_vision"),
        ("Wan", {"clip_vision": None}, "Wan looks at the picture through an image encoder too: connect clip_vision"),
        ("CogVideoX", {"positive": None}, "reads a prompt: connect positive"),
        ("Wan", {"conditioning": "SVD"}, "The model is WAN21 and cannot be prepared as SVD: choose auto, or Wan"),
        ("Wan", {"attention_blocks": "middle"}, "write auto, or indices with commas between them"),
        ("Wan", {"attention_blocks": "3"}, "this model has blocks 0 to 2"),
        ("Wan", {"video": torch.zeros(5, 64, 64, 3)}, "The video has 5 frames and the length is 9"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder: Path, family: str, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        surrogate(load(family, folder), **changes)


def test_the_first_videos_negative_prompt_may_be_anything(folder: Path) -> None:
    """Core's own sampler reads it, and no gradient comes through it."""
    loaded = load("Wan", folder)
    several = [*loaded.positive, [loaded.positive[0][0], {"start_percent": 0.2, "end_percent": 1.0}]]
    assert surrogate(loaded, negative=several).negative is several
    with pytest.raises(ValueError, match="What is connected to `positive` has 2 parts"):
        surrogate(loaded, positive=several)


def test_other_models_are_refused_by_name(folder: Path) -> None:
    import comfy.model_base
    import comfy.sd

    wan = load("Wan", folder)
    with pytest.raises(ValueError, match=r"The VAE makes latents of 16 channels and SVD reads 4: load the VAE that belongs to the model"):
        surrogate(load("SVD", folder), vae=wan.vae)
    with pytest.raises(ValueError, match=r"The VAE makes latents of 4 channels and Wan reads 16 of a video"):
        surrogate(wan, vae=load("SVD", folder).vae)
    for path in (video_files.wan(folder, channels=16), video_files.cogvideox(folder / "text", channels=16)):
        with pytest.raises(ValueError, match="makes videos from text alone: load its image-to-video version"):
            surrogate(wan, model=comfy.sd.load_diffusion_model(str(path)))
    flux = object.__new__(comfy.model_base.Flux)
    with pytest.raises(ValueError, match=r"The model is Flux, of which no picture's video is known here: connect a model of SVD, Wan, "):
        surrogate(wan, model=SimpleNamespace(model=flux))


def test_quantised_weights_are_refused(folder: Path) -> None:
    import comfy.sd

    path = video_files.wan(folder)
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float8_e4m3fn})
    with pytest.raises(ValueError, match=r"weights are quantised \(float8_e4m3fn\), .*: load it in fp16 or bf16"):
        surrogate(load("Wan", folder), model=model)


def guarded(loaded: Loaded, image: Tensor, *, mode: dict[str, object] | None = None, steps: int = 3, **changes: object) -> Tensor:
    """What the node I2VGuard makes of an IMAGE."""
    from stillguard.nodes.protect.i2vguard import I2VGuard

    inputs = {"target_weight": 1.0, "contrast_weight": 1.0, "attention_weight": 1.0, "penalty_weight": 100.0, **changes}
    chosen = {"mode": "hard", "budget": 8.0, "step": 1.0} if mode is None else mode
    with torch.inference_mode():
        # As the server does, which is where hidden inputs come from.
        out = I2VGuard.PREPARE_CLASS_CLONE(None).execute(image, loaded.spec(side=0), chosen, steps, 1, 64, "fast", 2.0, **inputs)
    return out.args[0]


def test_a_mask_protects_its_region_only(folder: Path, astronaut: Tensor) -> None:
    image = astronaut.movedim(1, -1)[:, :96, :64]
    mask = torch.zeros(1, 96, 64)
    mask[:, 20:50, 10:40] = 1
    protected = guarded(load("LTX", folder), image, mask=mask)
    assert torch.equal(protected[mask == 0], image[mask == 0])
    assert float((protected - image)[mask == 1].abs().mean()) > 1 / 255


def test_soft_mode_has_a_penalty_in_place_of_a_budget(folder: Path, astronaut: Tensor) -> None:
    """The heavier the penalty, the nearer the picture stays; without one nothing but the steps limits it."""
    image, soft = astronaut.movedim(1, -1)[:, :64, :64], {"mode": "soft", "rate": 4.0}
    free, held = (guarded(load("LTX", folder), image, mode=soft, steps=12, penalty_weight=weight) for weight in (0.0, 1e4))
    far, near = (float((protected - image).square().mean()) for protected in (free, held))
    assert float((free - image).abs().max()) > 16 / 255
    assert near < far / 2


def test_a_batch_has_a_first_video_for_each_picture(folder: Path, astronaut: Tensor) -> None:
    image = astronaut.movedim(1, -1)
    batch = torch.cat([image[:, :64, :64], image[:, 64:128, 64:128]])
    loaded = load("LTX", folder)
    protected = guarded(loaded, batch)
    assert torch.equal(protected[:1], guarded(loaded, batch[:1]))
    assert 0 < float((protected - batch).abs().max()) <= 8 / 255 + 1e-6


def test_low_memory_halves_the_peak(folder: Path) -> None:
    """The gradient is the same. Weights do not count here: they are in the host's memory either way."""
    spec = load("SVD", folder).spec(side=64, length=6)
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    peaks, gradients = zip(*(peak_and_gradient(spec, photo, low_memory=low) for low in (False, True)), strict=True)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-5
    assert peaks[1] < peaks[0] / 2


def peak_and_gradient(spec: object, photo: Tensor, *, low_memory: bool) -> tuple[int, Tensor]:
    from stillguard.engine import Objective, Observation, Term
    from stillguard.engine.draws import SeededDraws
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.losses.i2vguard import temporal_attention

    with autograd_session():
        surrogates = Surrogates()
        objective = Objective((Term("attention", 1.0, temporal_attention(1.0, spec).make(surrogates)),))
        with surrogates.on_device(height=64, width=64, low_memory=low_memory):
            clean = Observation(photo)

            def gradient() -> Tensor:
                leaf = (photo + 0.02 * randn(*photo.shape, seed=1)).requires_grad_()
                with surrogates.step():
                    objective.backward(clean, Observation(leaf, draws=SeededDraws(5), low_memory=low_memory))
                return leaf.grad

            gradient()  # the first video and the clean picture's maps are made
            with peak_bytes() as peak:
                found = gradient()
    return peak(), found
