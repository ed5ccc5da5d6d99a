"""What surrogates see of one picture, each feature computed once, and the gradient's way back through it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from .draws import Draws, SeededDraws, placed
from .picture import resize

Features = tuple[Tensor, ...]

Cut = Callable[[object, Hashable, Callable[[], Features]], Features]
"""(owner, key, compute) -> what `compute` returns, of which it may be made a feature, see Observation.features."""


def uncut(owner: object, key: Hashable, compute: Callable[[], Features]) -> Features:
    return compute()


class LatentEncoder(Protocol):
    """A VAE's encoder: image [B,3,H,W] in [0,1] -> latent [B,C,...]."""

    def encode(self, image: Tensor, /) -> Tensor: ...


class PosteriorEncoder(LatentEncoder, Protocol):
    """A VAE whose latents can be drawn."""

    def posterior(self, image: Tensor, /) -> tuple[Tensor, Tensor]:
        """Image [B,3,H,W] in [0,1] -> mean and standard deviation [B,C,h,w] of its latent."""
        ...


class ImageEncoder(Protocol):
    """A semantic encoder such as CLIP, its preprocessing included: image [B,3,H,W] in [0,1] -> embedding [B,D]."""

    def embed(self, image: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class WorkingSize:
    """How large surrogates see a photo: the way a victim's own preprocessing shrinks it.

    longest: the longer side in pixels at most; a photo is never enlarged to reach it. multiple: both sides become multiples
    of it. shortest: smaller sides are enlarged to it, since networks with many poolings need some pixels.
    """

    longest: int = 512
    multiple: int = 8
    shortest: int = 32

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Working (height, width) for a photo of the given size, aspect kept up to rounding."""
        scale = min(1.0, self.longest / max(height, width))
        floor = -(-self.shortest // self.multiple) * self.multiple
        ceiling = self.longest // self.multiple * self.multiple

        def fit(side: int) -> int:
            return max(floor, min(ceiling, round(side * scale / self.multiple) * self.multiple))

        return fit(height), fit(width)

    def __call__(self, image: Tensor) -> Tensor:
        """[B,1 or 3,H,W] -> [B,3,h,w], differentiable."""
        seen = resize(image, self.size(image.shape[-2], image.shape[-1]))
        return seen.expand(-1, 3, -1, -1)


@dataclass
class _Cut:
    """A place where the graph is cut: terms read the leaves, the gradient that gathers there flows on when it is released."""

    name: tuple[int, Hashable]
    owner: object
    compute: Callable[[], Features]
    leaves: Features
    outputs: Features | None
    held: bool


_PICTURE = object()


class Observation:
    """One picture as the surrogates see it.

    With a picture that requires grad (the adversarial side), every feature is a cut point: readers get detached leaves, so a
    term's backward frees its own graph at once; `release` then sends the gathered gradient through the shared encoder into
    the picture. The result is exact, since the chain rule does not care about the order. `low_memory` keeps only the newest
    feature's graph, and only until anything else is computed: the others are recomputed when their gradient is due, so that no two
    networks hold memory at a time. Computations must be deterministic.

    So is the picture itself: a space's rendering, with the networks inside it, is the first feature.

    A picture without grad (the clean side) is computed without grad and keeps its features as long as the object lives, except those that
    are not `lasting` and those of surrogates that have learned (`forget`).
    """

    def __init__(
        self,
        picture: Tensor | Callable[[Cut], Tensor],
        *,
        surrogates: Collection[object] = (),
        transform: Callable[[Tensor], Tensor] | None = None,
        draws: Draws | None = None,
        low_memory: bool = False,
    ) -> None:
        """picture: [B,1 or 3,h,w] at working size, or how it is rendered from tensors that require grad; a rendering puts what one network
        hands to the next through the Cut that it is given. surrogates: networks that the rendering runs; where there are some, low
        memory renders again when the picture's gradient is due.
        draws: the random numbers of the losses for this look; always the same ones when left out.
        """
        self.draws: Draws = SeededDraws(0) if draws is None else draws
        self._tracked = not isinstance(picture, Tensor) or picture.requires_grad
        self._low_memory = low_memory
        self._cuts: list[_Cut] = []
        self._known: dict[tuple[int, Hashable], Features] = {}
        self._passing: set[tuple[int, Hashable]] = set()
        self._companion: Observation | None = None
        self._depth = 0
        self._transform = transform
        self._untransformed = self._picture(picture, held=not surrogates)

    def _picture(self, picture: Tensor | Callable[[Cut], Tensor], *, held: bool) -> Tensor:
        def compute() -> Features:
            return (picture if isinstance(picture, Tensor) else picture(self.features),)

        try:
            return self._observe((id(_PICTURE), "picture"), _PICTURE, compute, held=held)[0]
        except BaseException:
            # Nobody has this object yet who could.
            self.discard()
            raise

    @property
    def untransformed(self) -> Tensor:
        """The picture at working size [B,3,h,w] before EoT: what a person would look at."""
        return self._untransformed

    @property
    def image(self) -> Tensor:
        """The picture after this step's EoT transformation: what a victim would be given."""
        transform = self._transform
        if transform is None:
            return self._untransformed
        return self.features(_PICTURE, "transformed", lambda: (transform(self._untransformed),))[0]

    def latent(self, vae: LatentEncoder) -> Tensor:
        return self.features(vae, "latent", lambda: (vae.encode(self.image),))[0]

    def drawn_latent(self, vae: LatentEncoder, purpose: str) -> Tensor:
        """Of the VAE's distribution, which it must have (PosteriorEncoder): drawn anew for each purpose."""
        posterior = cast(PosteriorEncoder, vae).posterior
        mean, deviation = self.features(vae, "posterior", lambda: posterior(self.image))
        return mean + deviation * placed(self.draws.normal(purpose, tuple(mean.shape)), mean)

    def embedding(self, encoder: ImageEncoder) -> Tensor:
        return self.features(encoder, "embedding", lambda: (encoder.embed(self.image),))[0]

    def features(self, owner: object, key: Hashable, compute: Callable[[], Features], *, lasting: bool = True) -> Features:
        """What `compute` returns, computed once per (owner, key). `owner` is the surrogate: a loss lists it in `surrogates`.

        lasting: False for what belongs to one look, such as what was made of its random numbers: the clean picture forgets it after.
        """
        name = (id(owner), key)
        known = self._known.get(name)
        if known is not None:
            return known
        if not lasting:
            self._passing.add(name)
        return self._observe(name, owner, compute)

    def forget(self, owners: Collection[object]) -> None:
        """Of a clean picture: drop every feature of these surrogates, which have learned since. Those that others own and were computed
        from them stay, so that a loss names these owners too."""
        stale = {id(owner) for owner in owners}
        self._known = {name: features for name, features in self._known.items() if name[0] not in stale}

    def _observe(self, name: tuple[int, Hashable], owner: object, compute: Callable[[], Features], *, held: bool = False) -> Features:
        if self._companion is not None:
            self._companion.make_room(owner)
        if self._tracked:
            self.make_room()
        # Inside another feature's computation, whose own network runs next, low memory keeps no graph.
        keep_graph = self._tracked and (held or not self._low_memory or self._depth == 0)
        self._depth += 1
        try:
            with torch.set_grad_enabled(keep_graph):
                outputs = compute()
        finally:
            self._depth -= 1
        if self._tracked:
            leaves = tuple(output.detach().requires_grad_() for output in outputs)
            self._cuts.append(_Cut(name, owner, compute, leaves, outputs if keep_graph else None, held))
            outputs = leaves
        self._known[name] = outputs
        return outputs

    def make_room(self, owner: object = None) -> None:
        """In low memory, before a network runs: no graph stays that can be recomputed, except one through `owner` itself.

        Features see to it themselves; a loss that calls a surrogate on its own, with features for inputs, says so here.
        """
        if self._low_memory:
            for cut in self._cuts:
                if not cut.held and cut.owner is not owner:
                    cut.outputs = None

    @contextlib.contextmanager
    def beside(self, clean: Observation) -> Iterator[None]:
        """One look. While it lasts, what is computed for the clean picture makes room among this one's graphs too."""
        clean._companion = self
        clean._forget_passing()
        try:
            yield
        finally:
            clean._companion = None
            clean._forget_passing()

    def _forget_passing(self) -> None:
        for name in self._passing:
            self._known.pop(name, None)
        self._passing.clear()

    def release(self, *, needed: Collection[object] = ()) -> None:
        """Send gathered gradients back and free graphs, newest feature first, down to one that `needed` surrogates own.

        Newest first because a feature is always newer than what it was computed from: none is released before its readers.
        The picture itself stays, since any loss may read it.
        """
        self._release_until({id(owner) for owner in needed} | {id(_PICTURE)})

    def release_picture(self) -> None:
        """Send everything that is left back to where the picture came from. The observation is used up."""
        self._release_until(set())

    def discard(self) -> None:
        """Free all graphs at once, whatever happened: closures and features hold each other."""
        self._cuts.clear()
        self._known.clear()

    def _release_until(self, kept: set[int]) -> None:
        while self._cuts and id(self._cuts[-1].owner) not in kept:
            cut = self._cuts.pop()
            if any(leaf.grad is not None for leaf in cut.leaves):
                _send_back(cut)
            del self._known[cut.name]


def _send_back(cut: _Cut) -> None:
    outputs = cut.outputs
    if outputs is None:
        with torch.enable_grad():
            outputs = cut.compute()
    # A feature may have parts that do not depend on the picture, such as a prompt beside what a model is told of it.
    due = [(output, leaf.grad) for output, leaf in zip(outputs, cut.leaves, strict=True) if leaf.grad is not None and output.requires_grad]
    if due:
        torch.autograd.backward([output for output, _ in due], [gradient for _, gradient in due])
