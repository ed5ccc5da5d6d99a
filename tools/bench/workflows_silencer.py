"""Silencer's workflows: protect a portrait from a talking head, and let that talking head speak with it."""

from __future__ import annotations

from .workflow_node import Link, Node
from .workflows_attack import BRANCHES, CLEAN, DRIVERS, MODELS, WATCHED, branches, fixed, kept, pictures, report, watched
from .workflows_dormant import VAE

FPS = 25.0
"""Hallo's."""

SECONDS = 4.0
HEARD, SAID = "speech.wav", "voice.wav"
"""What the protection hears, and what the attack lets the portrait say: not the same."""

_FILES = """Before the first run put these files in place and press R. A loader with a red frame does not find its file.
- *net.pth* (Hallo), in *models/stillguard*
- *vae-ft-mse-840000-ema-pruned*, in *models/vae*
- *wav2vec2-base-960h*, in *models/audio_encoders*
- *mediapipe_face_fp32*, in *models/detection*

The help page of **Load Talking Head** says where each is published."""

_MASKS = """**No face model, or it finds no face?** Bypass *Load Face Detection Model* (Ctrl-B) and paint: load the photo twice more with \
*Load Image*, choose *Open in MaskEditor*, and paint over the whole face in one and over the lips in the other, with a soft brush. \
Connect their MASK outputs to *face_mask* and *lips_mask*"""

NOTE_PROTECT = f"""## Silencer
Protects a portrait from talking heads, which make a photo say whatever they hear. It works against one of them, Hallo.

1. **Photo**: one portrait. Best is a square one in which the face fills half of the picture.
2. **Speech**: a few seconds of anybody's voice, without music.
3. **Silencer** changes the photo by at most *budget* 8-bit levels.

{_FILES}

{_MASKS} of **Silencer**.

Then attack the result yourself: *attack_silencer*."""

NOTE_ATTACK = f"""## Does it keep silent?
Hallo makes your photo, its protected version and the photo with random noise of the same budget say the same words, all with the same \
seed. **Protection Report** says what changed.

1. **Photo**: the unprotected original.
2. **Speech that the protection hears**, and **Other speech**, which the portrait shall say: two recordings of voices without music.
3. If you have protected the photo already, choose the file as **Your protected photo** and set the switch below it to *true*; any copy \
that others have will do. As long as the switch is *false*, **Silencer** protects the photo here.
4. **Random Noise**: give it the *budget* of your protection.

{_FILES}

{_MASKS} of **Silencer** and of all three **Animate (Talking Head)**. The landmark measures need the face model.

*Obedience, mouth* is how much of the movement is left; 100 % is the clean photo's. *M-LMD* and *F-LMD* say how far mouth and face are \
from the clean video's. If protected looks like clean, the photo is not protected. It was protected from this very model, which is the \
best case, and says nothing about other talking heads."""


def _models(left: int, width: int) -> list[Node]:
    """What Hallo consists of, and who finds the face."""
    detector = {"model_name": "mediapipe_face_fp32.safetensors"}
    return [
        Node("head", "StillguardLoadTalkingHead", (left, 40), (width, 82)),
        Node("vae", "VAELoader", (left, 200), (width, 60), widgets={"vae_name": VAE}),
        Node("encoder", "AudioEncoderLoader", (left, 340), (width, 60), widgets={"audio_encoder_name": "wav2vec2-base-960h.safetensors"}),
        Node("detector", "LoadMediaPipeFaceLandmarker", (left, 480), (width, 60), widgets=detector),
    ]


def _speech(key: str, title: str, file: str, position: tuple[int, int], width: int) -> Node:
    return Node(key, "LoadAudio", position, (width, 140), title=title, widgets={"audio": file})


def _told(audio: Link, image: Link) -> dict[str, Link]:
    """What every node that runs Hallo is given."""
    models = {"talking_head": "head", "vae": "vae", "audio_encoder": "encoder", "face_detection_model": "detector"}
    return {**{name: (key, 0) for name, key in models.items()}, "audio": audio, "image": image}


def _silencer(left: int, image: Link) -> Node:
    return Node("protect", "StillguardSilencer", (left, 40), (360, 900), widgets=fixed(), links=_told(("heard", 0), image))


PROTECT_SILENCER = [
    Node("note", "MarkdownNote", (20, 40), (400, 660), widgets={"text": NOTE_PROTECT}),
    Node("load", "LoadImage", (20, 760), (400, 420), title="Photo", widgets={"image": "astronaut.png"}),
    *_models(460, 380),
    _speech("heard", "Speech", HEARD, (460, 620), 380),
    _silencer(880, ("load", 0)),
    Node(
        "save",
        "StillguardSaveProtectedImage",
        (1280, 40),
        (360, 480),
        title="Protected picture",
        links={"images": ("protect", 0), "clean": ("protect", 3), "budget": ("protect", 2)},
    ),
    Node(
        "perturbation",
        "StillguardSaveProtectedImage",
        (1280, 580),
        (360, 480),
        title="Amplified perturbation",
        widgets={"filename_prefix": "stillguard/perturbation"},
        links={"images": ("protect", 1)},
    ),
]


def _speaks(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    key = f"{name}_frames"
    told = _told(("said", 0), image)
    return [Node(key, "StillguardAnimateTalkingHead", (BRANCHES, top), (360, 600), f"Attack: {name}", fixed(), told)], (key, 0)


_ATTACKED, _FRAMES = branches(_speaks, height=700)
_RIGHT = BRANCHES + 400

ATTACK_SILENCER = [
    *pictures(
        NOTE_ATTACK,
        [
            *_models(460, 420),
            _speech("heard", "Speech that the protection hears", HEARD, (460, 620), 420),
            _silencer(MODELS, CLEAN),
            kept((MODELS, 1000), ("protect", 3)),
        ],
        note_height=700,
    ),
    _speech("recording", "Other speech", SAID, (DRIVERS, 40), 340),
    Node("said", "TrimAudioDuration", (DRIVERS, 260), (340, 90), "Its first seconds", {"duration": SECONDS}, {"audio": ("recording", 0)}),
    *_ATTACKED,
    *report(_FRAMES, "Hallo", _RIGHT, top=WATCHED, surrogate=True, seen={"face_detection_model": ("detector", 0)}),
    *watched(_FRAMES, _RIGHT, fps=FPS, audio=("said", 0)),
]
