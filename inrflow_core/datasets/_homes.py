"""Where raw data sets come from, and the terms that their authors state; inrflow downloads nothing itself."""

from __future__ import annotations

from typing import NamedTuple

SHAPENET = "ShapeNet's terms of use (research, not commercial)"
UNSTATED = "no license stated"


class Home(NamedTuple):
    """The home of a data set."""

    page: str
    """Its authors' page, which links the files."""
    license: str
    """Their terms, as the page or the authors' repository states them."""


HOMES = {
    "afhq": Home("https://github.com/clovaai/stargan-v2", "CC BY-NC 4.0"),
    "celeba-hq": Home("https://github.com/tkarras/progressive_growing_of_gans", "CelebA's: research, not commercial"),
    "cifar10": Home("https://www.cs.toronto.edu/~kriz/cifar.html", UNSTATED),
    "fashion-mnist": Home("https://github.com/zalandoresearch/fashion-mnist", "MIT"),
    "ffhq": Home("https://github.com/NVlabs/ffhq-dataset", "CC BY-NC-SA 4.0, and each image's own"),
    "imagenet": Home("https://image-net.org/download.php", "terms of access: research and education, not commercial"),
    "lsun-church": Home("https://github.com/fyu/lsun", UNSTATED),
    "mnist": Home("http://yann.lecun.com/exdb/mnist/", UNSTATED),
    "objaverse": Home("https://objaverse.allenai.org", "ODC-By 1.0, and each object's Creative Commons license"),
    "occupancy": Home("https://github.com/autonomousvision/occupancy_networks", SHAPENET),
    "points2nerf": Home("https://github.com/gmum/points2nerf", SHAPENET),
    "shapenet": Home("https://github.com/stevenygd/PointFlow", SHAPENET),
    "sky-timelapse": Home("https://github.com/weixiong-ur/mdgan", UNSTATED),
    "srn-cars": Home("https://github.com/vsitzmann/scene-representation-networks", SHAPENET),
    "swissprot": Home("https://alphafold.ebi.ac.uk/download", "CC BY 4.0"),
    "text2shape": Home("http://text2shape.stanford.edu", f"{UNSTATED}; the shapes by {SHAPENET}"),
}
"""By the name of a data set, those whose files somebody distributes; folders of a user's own and made data have none."""


def home_hint(name: str) -> str:
    """The end of a hint where raw data are missing: the page of a data set and its license, or nothing."""
    home = HOMES.get(name)
    return "" if home is None else f"; its page is {home.page} ({home.license})"
