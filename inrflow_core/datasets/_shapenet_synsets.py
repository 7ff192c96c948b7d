"""The categories of ShapeNetCore: WordNet synset ids, and PointFlow's English names (its `can` is a trash can)."""

from __future__ import annotations

import re

from inrflow_core.errors import did_you_mean

SYNSET = re.compile(r"\d{8}")
NAMES = {
    "02691156": "airplane", "02747177": "can", "02773838": "bag", "02801938": "basket", "02808440": "bathtub",
    "02818832": "bed", "02828884": "bench", "02843684": "birdhouse", "02871439": "bookshelf", "02876657": "bottle",
    "02880940": "bowl", "02924116": "bus", "02933112": "cabinet", "02942699": "camera", "02946921": "tin_can",
    "02954340": "cap", "02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock",
    "03085013": "keyboard", "03207941": "dishwasher", "03211117": "monitor", "03261776": "earphone",
    "03325088": "faucet", "03337140": "file", "03467517": "guitar", "03513137": "helmet", "03593526": "jar",
    "03624134": "knife", "03636649": "lamp", "03642806": "laptop", "03691459": "speaker", "03710193": "mailbox",
    "03759954": "microphone", "03761084": "microwave", "03790512": "motorcycle", "03797390": "mug",
    "03928116": "piano", "03938244": "pillow", "03948459": "pistol", "03991062": "pot", "04004475": "printer",
    "04074963": "remote_control", "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa",
    "04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower", "04468005": "train",
    "04530566": "vessel", "04554684": "washer",
}  # fmt: skip


def is_synset(name: str) -> bool:
    """Whether a name, as of a folder, is a synset id: eight digits."""
    return SYNSET.fullmatch(name) is not None


def title_of(synset: str) -> str:
    """The English name of a synset id; of another name itself."""
    return NAMES.get(synset, synset)


def synset_of(name: str) -> str:
    """The synset id of an English name, or of itself.

    Raises:
        ValueError: no category has that name.
    """
    if name in NAMES:
        return name
    by_name = {english: synset for synset, english in NAMES.items()}
    if name.lower() not in by_name:
        raise ValueError(f"`categories` names `{name}`, which ShapeNet does not have; {did_you_mean(name, by_name)}")
    return by_name[name.lower()]
