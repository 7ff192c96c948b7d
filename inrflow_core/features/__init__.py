"""Networks that turn pictures or clouds into numbers to compare: one file each, the file's name its registration.

A network's file has

    DOMAIN: str                           "image" or "points"
    OUTPUTS: Mapping[str, int]            what it gives, and how many numbers each is: {"pool": 2048, "logits": 1008}
    FORMS: tuple[str, ...]                how pictures are resized and quantised, or clouds moved, scaled and coloured for
                                          it, the default first
    POINTS: int                           of clouds: how many points it looks at
    WEIGHTS: Weights | None               the published files that it loads (features/_weights.py); None where it needs none
    load(path, device) -> Extractor       the network with the weights of a safetensors file, called as
        extractor(items, outputs, form)   pictures uint8 (B H W C), C = 1 or 3, or clouds float (B P C), C = 3 or 6 with
                                          colours in [-1, 1] -> {output: float32 (B F)}, on the CPU
        extractor.loaded                  the digest of its weights and what they were made of; None where it needs none
        extractor.note(form)              what must be said of numbers of that form: None, or that its weights are others

Where WEIGHTS is not None, the file also has FILES (the published file that each form is named after) and, of pictures,
RESIZERS (what each form does to them). Weights come from a local file that a script made of a published one
(tools/convert_weights.py, docs/feature-weights.md), and `find_weights` finds it; nothing is downloaded.
"""

from inrflow_core.features._weights import find as find_weights

__all__ = ["find_weights"]
