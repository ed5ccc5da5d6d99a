"""What losses read inside of core's denoisers while these run: attention through core's own override, outputs through hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, VideoResBlock
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ....engine.surrogates.denoiser import Tap
from ....engine.surrogates.lora import NO_ADAPTERS, Adapters, flattened, paired

# Where core's transformers keep their blocks, of which the first attention is one over all tokens.
_STREAMS = (
    ("blocks",),
    ("transformer_blocks",),
    ("joint_blocks",),
    ("double_blocks", "single_blocks"),
    ("double_layers", "single_layers"),
    ("layers",),
)
# Of these, blocks with two streams give the picture's behind the text's; others the text's behind the picture's.
_TEXT_FIRST = ("transformer_blocks", "joint_blocks", "double_layers")


def is_video_unet(network: nn.Module) -> bool:
    """Whether attention between frames is one of its own."""
    return any(isinstance(part, SpatialVideoTransformer) for part in network.modules())


def tapped_blocks(network: nn.Module, kind: Literal["attention", "output", "map"]) -> list[nn.Module]:
    """What a tap's number counts, in the order in which blocks run.

    Of a transformer its blocks. Of a UNet, for outputs all blocks of its levels; for attention, the transformer blocks within: in a video
    UNet those between frames on the way down. Raises ValueError where there are none.
    """
    if hasattr(network, "input_blocks"):
        if kind != "attention":
            # Core runs the layers of a level's block one by one: what the last one gives is what the block gives.
            # Some have none in the middle.
            blocks = (*network.input_blocks, network.middle_block, *network.output_blocks)  # type: ignore[misc, union-attr]
            return [block[-1] for block in blocks if block is not None]
        if is_video_unet(network):
            parts = [part for part in network.get_submodule("input_blocks").modules() if isinstance(part, SpatialVideoTransformer)]
            return [block for part in parts for block in part.time_stack]
        return [block for part in network.modules() if isinstance(part, SpatialTransformer) for block in part.transformer_blocks]
    if found := _streamed(network):
        return found
    raise ValueError("This model's blocks cannot be found: leave out the losses that look into it, such as Temporal Attention.")


def block_lists(network: nn.Module) -> tuple[str, ...]:
    """Names of the lists in which core keeps a transformer's blocks, in the order in which they run; none where it keeps them elsewhere."""
    found = (tuple(name for name in names if len(getattr(network, name, ()))) for names in _STREAMS)
    return next((names for names in found if names), ())


def _streamed(network: nn.Module) -> list[nn.Module]:
    return [block for name in block_lists(network) for block in getattr(network, name)]


def i2vguards_blocks(network: nn.Module) -> tuple[int, ...]:
    """Whose attention I2VGuard reads: of a video UNet the two of its last down block; of a transformer the two in the middle."""
    count = len(tapped_blocks(network, "attention"))
    if is_video_unet(network):
        return tuple(range(max(0, count - 2), count))
    return tuple(sorted({max(0, count // 2 - 1), count // 2}))[: min(2, count)]


def recomputable(network: nn.Module, taps: Sequence[Tap]) -> list[nn.Module]:
    """Parts that hold most activations and can be run again in the backward pass: all within which no attention is listened to."""
    listened = [tapped_blocks(network, "attention")[tap.block] for tap in taps if tap.kind == "attention"]
    if hasattr(network, "input_blocks"):
        kinds = (SpatialVideoTransformer, VideoResBlock) if is_video_unet(network) else (SpatialTransformer, ResBlock)
        parts = [part for part in network.modules() if isinstance(part, kinds)]
    else:
        parts = _streamed(network)
    return [part for part in parts if not any(module is block for module in part.modules() for block in listened)]


class Recorder:
    """What taps read during one forward pass over latents [B,C,h,w], [B,C,F,h,w] or of a video UNet [F,C,h,w]. See Tap for what they give.

    Where attention is over all tokens of a video, queries and keys are averaged over each frame's places first, since a map of all tokens
    would not fit any memory.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap], latents: Sequence[int]) -> None:
        self._blocks = {tap: tapped_blocks(network, tap.kind)[tap.block] for tap in taps}
        # Tokens of one frame, behind those of texts and references; None in a UNet, which has no others.
        self._grid = None if hasattr(network, "input_blocks") else _grid(network, latents)
        self._tokens = None if self._grid is None else self._grid[0] * self._grid[1]
        # Some put two latent frames into one token, such as CogVideoX 1.5.
        self._frames = -(-latents[-3] // (getattr(network, "patch_size_t", None) or 1)) if len(latents) == 5 else 1
        self._picture = -1 if any(hasattr(network, name) for name in _TEXT_FIRST) else 0
        self._padded: int = getattr(network, "pad_tokens_multiple", None) or 1
        self._awaited: Tap | None = None
        self._read: dict[Tap, Tensor] = {}

    def take(self) -> list[Tensor]:
        """What was read, in the order of the taps. Nothing of it stays here: graphs of recomputed blocks hold this object."""
        return [self._read.pop(tap) for tap in self._blocks]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for tap, block in self._blocks.items():
                if tap.kind == "attention":
                    handle = block.register_forward_pre_hook(partial(self._await, tap))
                else:
                    handle = block.register_forward_hook(partial(self._keep, tap))
                stack.callback(handle.remove)
            yield

    def _await(self, tap: Tap, module: nn.Module, inputs: object) -> None:
        self._awaited = tap

    def _keep(self, tap: Tap, module: nn.Module, inputs: object, output: Any) -> None:
        given: Tensor = output[self._picture] if isinstance(output, tuple) else output
        if self._grid is None:
            read = rearrange(given, "b c h w -> b (h w) c" if tap.kind == "output" else "b c h w -> b h w c")
        else:
            read = self._shown(given)
            read = read if tap.kind == "output" else read.unflatten(1, (self._frames, *self._grid))
        self._read[tap] = tap.read(read)

    def _shown(self, given: Tensor) -> Tensor:
        """Tokens of the picture or video: the last ones, but for some that only fill them up to a multiple."""
        assert self._tokens is not None
        given, count = given.flatten(1, -2), self._frames * self._tokens
        end = given.shape[1] - -count % self._padded
        return given[:, max(0, end - count) : end]

    def attend(self, function: object, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        """In place of core's attention function, by one that has a backward pass on every machine."""
        if self._awaited is not None:
            tap, self._awaited = self._awaited, None
            separate = bool(kwargs.get("skip_reshape"))
            query, key = (x if separate else rearrange(x, "b t (heads d) -> b heads t d", heads=heads) for x in (q, k))
            self._read[tap] = _map(self._by_frame(query), self._by_frame(key))
        attended: Tensor = attention_pytorch(q, k, v, heads, *args, **kwargs)
        return attended

    def _by_frame(self, x: Tensor) -> Tensor:
        """[B,heads,T,D] -> [B,heads,F,D]."""
        if self._tokens is None or self._frames == 1:
            return x
        of_video = x[:, :, -self._frames * self._tokens :]
        return rearrange(of_video, "b heads (f t) d -> b heads f t d", t=self._tokens).mean(dim=3)


def _grid(network: nn.Module, latents: Sequence[int]) -> tuple[int, int]:
    """Tokens of one frame, down and along. Without a size of its own, a token is one place of the latents."""
    patch: Any = getattr(network, "patch_size", 1)
    side = int(patch[-1] if isinstance(patch, (tuple, list)) else patch)
    return -(-latents[-2] // side), -(-latents[-1] // side)


def _map(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = q.float() @ k.float().mT / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


@contextlib.contextmanager
def recomputed(parts: Sequence[nn.Module], adapters: Adapters = NO_ADAPTERS) -> Iterator[None]:
    """While it lasts, these keep their inputs instead of their activations. adapters: which are applied meanwhile."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(_recomputed(part, adapters))
        yield


@contextlib.contextmanager
def _recomputed(part: nn.Module, adapters: Adapters) -> Iterator[None]:
    forward = part.forward

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        leaves, layout = tree_flatten((args, kwargs))
        tensors = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        others = [None if place in tensors else leaf for place, leaf in enumerate(leaves)]

        def run(*values: Tensor) -> Any:
            filled = list(others)
            for place, value in zip(places, values[: len(places)], strict=True):
                filled[place] = value
            args, kwargs = tree_unflatten(filled, layout)
            # Inputs too, for what is not one has no gradient here; and in the backward pass they are applied no longer.
            with adapters.applied(paired(inside, values[len(places) :])):
                return forward(*args, **kwargs)

        places, inside = list(tensors), adapters.within(part)
        return _Recomputed.apply(run, *tensors.values(), *flattened(inside))

    part.forward = recomputing
    try:
        yield
    finally:
        del part.forward


class _Recomputed(torch.autograd.Function):
    """torch.utils.checkpoint for blocks that change tensors in place, which core has many of: what is computed again is kept as what is
    computed once, so that `in_place_allowed` holds for it too.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        # Of copies: otherwise the second run would begin from what the first one left.
        return run(*(tensor.clone() for tensor in tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = [tensor.detach().requires_grad_(due) for tensor, due in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)]
        with torch.enable_grad():
            outputs = ctx.run(*(tensor.clone() for tensor in inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = zip(outputs, gradients, strict=True)
        due = [(output, gradient) for output, gradient in pairs if gradient is not None and output.requires_grad]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        # Not backward(): what reaches a block beside its inputs, such as a noise level in a container, has a graph that others use too.
        found = iter(torch.autograd.grad([output for output, _ in due], wanted, [gradient for _, gradient in due], allow_unused=True))
        return (None, *(next(found) if tensor.requires_grad else None for tensor in inputs))
