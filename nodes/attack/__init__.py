"""The attack test: what an attacker does with a picture."""

from . import (
    adm,
    animate_face,
    animate_pose,
    animate_talking_head,
    check_copy,
    installed_victims,
    lab_victims,
    purify_diffusion,
    purify_impress,
    purify_upscale,
    random_noise,
    transform,
)

NODES = (
    *transform.NODES,
    *random_noise.NODES,
    *purify_impress.NODES,
    *purify_upscale.NODES,
    *adm.NODES,
    *purify_diffusion.NODES,
    *animate_pose.NODES,
    *animate_face.NODES,
    *animate_talking_head.NODES,
    *lab_victims.NODES,
    *installed_victims.NODES,
    *check_copy.NODES,
)
