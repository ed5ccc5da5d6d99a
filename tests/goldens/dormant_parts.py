"""The networks of a Dormant set: ours, and the libraries' own where ours would be a VAE or a CLIP socket."""

from __future__ import annotations

from functools import cached_property

from diffusers import AutoencoderKL
from stillguard.engine.animators.pose_animator import PoseAnimator, load_pose_animator
from stillguard.engine.compute.tiling import Tiled
from stillguard.engine.picture import nearest_signed
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from stillguard.engine.surrogates.reference_net import ReferenceNet, load_reference_net
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .folder import Folder

ANIMATOR = ("weights/denoising_unet", "weights/motion_module", "weights/pose_guider")


class VAE:
    """diffusers' autoencoder, unscaled means."""

    def __init__(self, folder: Folder) -> None:
        self._network = AutoencoderKL(**folder.config("vae")).eval().requires_grad_(False)
        problems = self._network.load_state_dict(folder.weights("vae"), strict=False)
        assert not problems.unexpected_keys
        assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in problems.missing_keys)

    def encode(self, image: Tensor) -> Tensor:
        return self._network.encode(image * 2 - 1).latent_dist.mean


class CLIP:
    """transformers' image encoder, given pictures as the official code gives them."""

    def __init__(self, folder: Folder) -> None:
        self._network = CLIPVisionModelWithProjection(CLIPVisionConfig(**folder.config("clip"))).eval().requires_grad_(False)
        state = {name: value for name, value in folder.weights("clip").items() if not name.endswith("position_ids")}
        problems = self._network.load_state_dict(state, strict=False)
        assert not problems.unexpected_keys
        assert all(name.endswith("position_ids") for name in problems.missing_keys)

    def embed(self, image: Tensor) -> Tensor:
        return self._network(pixel_values=nearest_signed(image)).image_embeds


class NarrowVGG(nn.Module):
    """VGG16's layers at other widths, tapped where LPIPS taps them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = {tuple(name.split(".")[1:]): value for name, value in state.items() if name.startswith("net.")}

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for part in ("slice1", "slice2", "slice3", "slice4", "slice5"):
            if part != "slice1":
                image = nn.functional.max_pool2d(image, 2)
            for index in sorted({int(name[1]) for name in self.state if name[0] == part}):
                weight, bias = self.state[part, str(index), "weight"], self.state[part, str(index), "bias"]
                image = nn.functional.conv2d(image, weight, bias, padding=1).relu()
            maps.append(image)
        return maps


class Parts:
    """Our networks from the folder's files, each made when it is first needed."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        inputs = folder.vectors("inputs")
        self.clean = (inputs["x"] + 1) / 2
        self.pose = inputs["pose_cond_u8"][0].transpose(0, 1).float() / 255
        self.text = inputs["text_embeddings"][:1]
        self.tile = int(folder.config("vae")["sample_size"])

    @cached_property
    def vae(self) -> VAE:
        return VAE(self._folder)

    @cached_property
    def tiled(self) -> Tiled:
        return Tiled(self.vae, tile=self.tile)

    @cached_property
    def clip(self) -> CLIP:
        return CLIP(self._folder)

    @cached_property
    def lpips(self) -> PerceptualNetwork:
        state = self._folder.weights("lpips")
        heads = []
        for index in range(5):
            weight = state[f"lin{index}.model.1.weight"]
            heads.append(nn.Conv2d(weight.shape[1], 1, 1, bias=False))
            heads[-1].weight.data = weight
        return PerceptualNetwork(NarrowVGG(state), heads)

    @cached_property
    def animator(self) -> PoseAnimator:
        config = self._folder.config("denoising_unet")
        files = (self._folder.file(name.removeprefix("weights/")) for name in ANIMATOR)
        return load_pose_animator(*files, heads=config["attention_head_dim"], groups=config["norm_num_groups"])

    def net(self, name: str) -> ReferenceNet:
        config = self._folder.config(name)
        heads = config.get("attention_head_dim", config.get("num_heads"))
        return load_reference_net(self._folder.file(name), heads=heads, groups=config.get("norm_num_groups", 32))
