"""What a reader of a report has to know: what the figures mean, what they cannot say, and where the measures come from."""

from __future__ import annotations

from collections.abc import Iterable

PROMISE = (
    "This report measures; it promises nothing. It says what these models made of one photo with these seeds and settings. "
    "A video that differs from the clean one is not yet a failed animation: look at the frames whether the person can be recognised."
)
MEANING = {
    "Clean, protected, noise": "The videos that one victim made of the clean picture, of the protected one and of one with random noise, "
    "with the same seed and settings. A protection is worth something where it does more than noise of the same budget.",
    "Surrogate, black box": "Whether the protection was made with this very model, as the user stated. Models often share an autoencoder "
    "or an image encoder, so a black box may still be a close relative.",
    "Obedience": "What share of the change that the driving (a voice, poses, another video) makes in the clean picture's video reaches "
    "this one: 100\u00a0% for a face that follows as the clean one does, 0\u00a0% for one that does not, because it is frozen or does "
    "something else. What is the same in all frames, such as the perturbation itself, does not count. Less is more protected. Taken from "
    "the pixels of the whole picture; of mouth, eyes and head by their landmarks, where faces are found.",
    "Obedience beside PSNR and LPIPS": "Those compare how frames look. A frozen face can be nearer to the clean frames than a torn one, or "
    "nearer than plain noise, though it does nothing that it was told: they rank such videos wrongly, obedience does not.",
    "Interval and n": "Below a value stand its 95\u00a0% interval and n, the number of frames, transitions or windows that it is the mean "
    "of. The interval is a bootstrap over blocks of neighbouring frames (Politis and Romano 1992): it speaks of other moments of this "
    "video, not of other photos, seeds or models, and in slow videos it is too narrow. Where there are too few values there is none.",
    "Clearly further": "The intervals of the protected and of the noisy video do not touch.",
    "Drawings beside the table": "Value and interval on a scale of each row's own: circle clean, square protected, diamond noise.",
}
LIMITS = (
    "One photo and one seed are one example. The next photo, seed or model version can give another answer.",
    "A frozen or a blank video can look consistent or smooth: read every measure together with the frames and the measure of motion.",
    "Who wants to use a picture may first blur, compress, crop or purify it. Attack the picture after such steps too.",
    "Measures see what their networks learned to see. None of them measures harm.",
)
_LIKENESS = "as a measure of likeness: Ruiz and others, CVPR 2023, arXiv 2208.12242."
_SOURCES = {
    "lpips": "LPIPS: Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018, arXiv 1801.03924.",
    "ssim": "SSIM: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 2004.",
    "fid-vid": "FID-VID: Balaji, Min, Bai, Chellappa, Graf, IJCAI 2019.",
    "fid": "FID: Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, NeurIPS 2017, arXiv 1706.08500.",
    "kid": "KID: Bińkowski, Sutherland, Arbel, Gretton, ICLR 2018, arXiv 1801.01401.",
    "fvd": "FVD: Unterthiner and others 2018, arXiv 1812.01717.",
    "clip": f"CLIP: Radford and others, ICML 2021, arXiv 2103.00020; {_LIKENESS}",
    "dino": f"DINO: Caron and others, ICCV 2021, arXiv 2104.14294; {_LIKENESS}",
    "vbench": "VBench: Huang and others, CVPR 2024, arXiv 2311.17982.",
}
_OF_VBENCH = ("consistency", "smoothness", "aesthetic", "imaging")


def sources(names: Iterable[str]) -> list[str]:
    """Papers of the measures with these names."""
    spoken_of = [f"vbench {name.lower()}" if any(word in name.lower() for word in _OF_VBENCH) else name.lower() for name in names]
    return [text for key, text in _SOURCES.items() if any(_speaks_of(name, key) for name in spoken_of)]


def _speaks_of(name: str, key: str) -> bool:
    return key in name and not (key == "fid" and "fid-vid" in name)
