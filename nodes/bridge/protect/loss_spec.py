"""What a loss node returns, and the objective that a run makes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from ....engine.objective import Loss, Objective, Term
from ..surrogates.diffusion import taught
from ..surrogates.early_exit import Reads, last_blocks
from ..surrogates.run_surrogates import Surrogates


@dataclass(frozen=True, eq=False)
class LossSpec:
    """One loss of a STILLGUARD_LOSS, which carries a tuple of these: immutable, and without a network of its own.

    weight: signed, positive is maximised. make: the engine's loss over differentiable views of the sockets that it was made with; called
    once for each run, and not at all without a weight. drives: False for a penalty, which can only hold a picture back. one_photo: why the
    loss belongs to one photo, so that a batch cannot share it, such as "the frame loss has the pose of one". scaled: see engine's Term.
    reads: how much of a denoiser's model it needs, where it asks one: where all losses read early blocks only, the rest is left out.
    """

    name: str
    weight: float
    make: Callable[[Surrogates], Loss]
    drives: bool = True
    one_photo: str | None = None
    scaled: bool = False
    reads: Reads | None = None


Losses = tuple[LossSpec, ...]


def check_losses(losses: Losses, *, photos: int) -> None:
    """Raises ValueError where nothing drives the picture, or a loss belongs to one photo and there are several."""
    if not any(spec.drives and spec.weight for spec in losses):
        raise ValueError(
            "Nothing drives the protection, because only penalties are connected or every weight is 0: "
            "connect a loss such as VAE Latent Loss with a weight above 0."
        )
    for spec in losses:
        if photos > 1 and spec.weight and spec.one_photo is not None:
            raise ValueError(f"There are {photos} photos, and {spec.one_photo}: protect them one by one, or set its weight to 0.")


def surrogates_of(losses: Losses, in_fp32: Collection[Hashable] = ()) -> Surrogates:
    """For a run of these losses, of which no model has more than they need. in_fp32: see Surrogates."""
    return Surrogates(in_fp32, last_blocks(spec.reads for spec in losses if spec.weight and spec.reads is not None))


def objective_of(losses: Losses, surrogates: Surrogates) -> Objective:
    """The engine's terms; a name that occurs again is numbered."""
    terms: list[Term] = []
    # A loss without weight is not even built, so that its models take no memory.
    for spec in (spec for spec in losses if spec.weight):
        again = sum(term.name.split(" #")[0] == spec.name for term in terms)
        name = f"{spec.name} #{again + 1}" if again else spec.name
        terms.append(Term(name, spec.weight, taught(spec.make(surrogates)), scaled=spec.scaled))
    return Objective(tuple(terms))
