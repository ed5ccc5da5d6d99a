"""Compare Videos inside ComfyUI: inputs as clips that are decoded a few frames at a time, networks on its device, progress."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import av
import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.common_dit import pad_to_patch_size
from comfy_api.latest import Input, InputImpl
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....engine.metrics.compare import compare
from ....engine.metrics.comparison import Comparison
from ....engine.metrics.measure import Measure, Unavailable
from ....engine.metrics.video_clip import CHUNK, Clip, HeldClip
from ....engine.picture import split_alpha
from ..memory.devices import bring, is_whole, patched
from ..progress import show_text
from ..surrogates.clip_vision import embedding_width

SECONDS_BETWEEN_TEXTS = 0.5
# About half of the least that core keeps free for inference, comfy.model_management.minimum_inference_memory.
_LEAST_MEMORY = 0.4e9


class _FewPackets:
    """In place of PyAV's container: what core decodes as a whole comes out CHUNK packets at a time, without sound."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self._container = container
        self._packets: Iterator[av.Packet] | None = None
        self.streams = SimpleNamespace(video=container.streams.video, audio=())
        self.metadata = container.metadata
        self.ended = False

    def seek(self, *where: Any, **how: Any) -> None:
        if self._packets is None:
            self._container.seek(*where, **how)

    def demux(self, *streams: Any) -> Iterator[av.Packet]:
        if self._packets is None:
            self._packets = self._container.demux(*streams)
        # Set before the loop: core drops this generator where a trimmed video ends, and no line behind the loop runs then.
        self.ended = True
        for _ in range(CHUNK):
            packet = next(self._packets, None)
            if packet is None:
                return
            yield packet
        self.ended = False


@dataclass(frozen=True)
class VideoClip:
    """A VIDEO that lies in a file: exactly the frames of its get_components(), since core's own code decodes them."""

    video: InputImpl.VideoFromFile
    frames: int
    size: tuple[int, int]

    def read(self) -> Iterator[Tensor]:
        with _opened(self.video) as container:
            packets = _FewPackets(container)
            while not packets.ended:
                images = self.video.get_components_internal(packets).images
                if images.shape[0]:
                    yield from HeldClip(images).read()


def clip_of(frames: Tensor | Input.Video) -> Clip:
    """From an IMAGE or VIDEO input. Raises ValueError for a number of channels other than 1, 3 or 4, and for files that are no videos."""
    if isinstance(frames, InputImpl.VideoFromFile):
        return _file_clip(frames)
    pictures = frames if isinstance(frames, Tensor) else frames.get_components().images
    split_alpha(pictures.movedim(-1, 1))
    return HeldClip(pictures)


def _file_clip(video: InputImpl.VideoFromFile) -> VideoClip:
    try:
        with _opened(video) as container:
            count = _count(video, container)
        first = next(VideoClip(video, count, (0, 0)).read(), None)
    except av.error.FFmpegError as error:
        raise ValueError(f"A video file cannot be decoded ({error.strerror}): load another one, or save it again.") from error
    return VideoClip(video, count, (0, 0) if first is None else (first.shape[-2], first.shape[-1]))


@contextlib.contextmanager
def _opened(video: InputImpl.VideoFromFile) -> Iterator[av.container.InputContainer]:
    source = video.get_stream_source()
    # A reader of its own, since several branches may hold the same buffer.
    with av.open(io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source, mode="r") as container:
        yield container


def _count(video: InputImpl.VideoFromFile, container: av.container.InputContainer) -> int:
    """Frames that core decodes, without converting their colours; what files say of themselves is often wrong for trimmed ones."""
    stream = container.streams.video[0]
    start, duration = video.get_active_trim_window()
    first, end = (int(seconds / stream.time_base) for seconds in (start, start + duration))
    if first:
        container.seek(first, stream=stream)
    count = 0
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                pts = frame.pts or 0
                if duration and pts >= end:
                    return count
                count += pts >= first
    return count


def on_device(network: nn.Module) -> list[RemovableHandle]:
    """Under ComfyUI's memory management: the network comes to its device whenever it is asked something and is not there.

    Until the handles are removed; before that the two hold each other, and with them the weights.
    """
    patcher = patched(network)

    def come(module: nn.Module, inputs: object) -> None:
        # Core takes parts of it away for other models, in any order.
        if not is_whole(patcher):
            bring([patcher])

    # Not all are asked through `forward`: LPIPS gives activations too.
    return [part.register_forward_pre_hook(come) for part in (network, *network.children())]


def clip_embedder(clip_vision: Any) -> Callable[[Tensor], Tensor]:
    """From a CLIP_VISION socket: [n,3,H,W] in [0,1] -> embeddings [n,D], as core's CLIP Vision Encode computes them.

    Raises ValueError for encoders without CLIP's projection.
    """
    if clip_vision.model_type != "clip_vision_model" or embedding_width(clip_vision) is None:
        raise ValueError("The image encoder is none of CLIP's: load a CLIP image encoder with Load CLIP Vision.")

    def embed(frames: Tensor) -> Tensor:
        embedding: Tensor = clip_vision.encode_image(frames.movedim(1, -1))["image_embeds"]
        return embedding.float().to(frames.device)

    return embed


def aesthetic_embedder(clip_vision: Any) -> Callable[[Tensor], Tensor]:
    """The same for LAION's head. Raises ValueError for anything but a ViT-L/14 of 224 pixels."""
    width, side, patch = embedding_width(clip_vision), clip_vision.image_size, clip_vision.config.get("patch_size")
    if (width, side, patch) != (768, 224, 14):
        raise ValueError(
            "LAION's aesthetic head reads embeddings of CLIP ViT-L/14 (768 numbers, 224 px), and this encoder gives "
            f"{width} numbers at {side} px: load clip-vit-large-patch14."
        )
    return clip_embedder(clip_vision)


def interpolator(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """From an INTERP_MODEL socket: two frames [n,3,H,W] in [0,1] -> those halfway, as core's Run Frame Interpolation Model makes them.

    Raises ValueError when the socket holds something else, and at use for frames smaller than the network can take.
    """
    network: Any = getattr(model, "model", None)
    if not callable(getattr(network, "memory_used_forward", None)):
        raise ValueError(f"The interpolation model is a {type(model).__name__}: connect Load Frame Interpolation Model.")
    align = getattr(network, "pad_align", 1)

    def one(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        if min(height, width) <= align // 2:
            raise ValueError(f"The interpolation model needs frames of more than {align // 2} pixels, and these are {width}x{height}.")
        dtype = model.model_dtype()
        memory = network.memory_used_forward((1, height, width, 3), dtype)
        bring([model], room=memory)
        before, after = (
            pad_to_patch_size(frame.to(device=model.load_device, dtype=dtype), (align, align), padding_mode="reflect")
            for frame in (first, second)
        )
        time_map = before.new_full((1, 1, *before.shape[-2:]), 0.5)
        made = network(before, after, timestep=time_map)[..., :height, :width]
        return made.to(first).clamp(0, 1)

    def halfway(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([one(a, b) for a, b in zip(first.split(1), second.split(1), strict=True)])

    return halfway


def _memory(device: torch.device) -> float | None:
    """Bytes that a measure may fill: of a GPU a quarter of what is free, since networks of other measures come yet.

    None on the CPU, where more frames at once are not faster and round differently.
    """
    return None if device.type == "cpu" else max(_LEAST_MEMORY, comfy.model_management.get_free_memory(device) / 4)


@torch.no_grad()
def compare_videos(
    branches: Mapping[str, Tensor | Input.Video],
    measures: Sequence[Measure | Unavailable],
    *,
    victim: str,
    surrogate: bool,
    shortest: bool,
    settings: Mapping[str, object],
    node_id: str | None,
) -> Comparison:
    """Measure them on ComfyUI's device. Raises ValueError as engine.metrics.compare does, ComfyUI's interruption when cancelled."""
    clips = {branch: clip_of(frames) for branch, frames in branches.items()}
    device = comfy.model_management.get_torch_device()
    running = compare(
        clips, measures, victim=victim, surrogate=surrogate, settings=settings, shortest=shortest, device=device, memory=_memory(device)
    )
    bar: comfy.utils.ProgressBar | None = None
    last_text = float("-inf")
    with contextlib.closing(running):
        for progress in running:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar = bar or comfy.utils.ProgressBar(progress.total, node_id=node_id)
            bar.update_absolute(progress.done)
            if time.monotonic() > last_text + SECONDS_BETWEEN_TEXTS:
                show_text(progress.doing, node_id=node_id)
                last_text = time.monotonic()
    assert progress.comparison is not None
    return progress.comparison
