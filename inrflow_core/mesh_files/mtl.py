"""Materials of OBJ files (MTL): the diffuse color `Kd` and its texture `map_Kd` with the texture's options.

All else of a material (ambient and specular light, transparency, bumps) is not part of a surface's color and ignored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from inrflow_core.errors import UnreadableItemError
from inrflow_core.mesh_files import textures
from inrflow_core.mesh_files.textures import Fetch, Wrap

NUMBERS = {"-mm": 2, "-bm": 1, "-boost": 1, "-texres": 1, "-o": 3, "-s": 3, "-t": 3}
"""Options of a texture and the most numbers that each takes."""
WORDS = ("-blendu", "-blendv", "-cc", "-clamp", "-imfchan", "-type")
"""Options that take one word."""
NEUTRAL = {"-mm": ["0.0", "1.0"], "-t": ["0.0", "0.0", "0.0"], "-cc": ["off"]}
"""What options that are not applied may say."""


@dataclass(frozen=True)
class Material:
    """The color of a material, and its texture."""

    color: tuple[float, float, float] | None = None
    """`Kd`, in [0, 1]."""
    texture: str = ""
    """The name of the file of `map_Kd`."""
    image: UInt8[np.ndarray, "H W 3"] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    wrap: Wrap = "repeat"

    @property
    def texture_factor(self) -> tuple[float, float, float]:
        """What the texture is multiplied by: `Kd`, where it is not the black of exporters that give none."""
        return self.color if self.color is not None and any(self.color) else (1.0, 1.0, 1.0)


def read(content: bytes) -> dict[str, Material]:
    """The materials of a library by name, without their images.

    Raises:
        UnreadableItemError: a color is not given as RGB, or a texture has an option that is not applied.
        ValueError: it has something else where a number belongs.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    materials, name = {}, None
    for line in text.splitlines():
        word, *rest = line.split(None, 1) or [""]
        argument = rest[0].strip() if rest else ""
        if word == "newmtl":
            name = argument
            materials[name] = Material()
        elif name is not None and word.lower() == "kd":
            materials[name] = dataclasses.replace(materials[name], color=_color(argument))
        elif name is not None and word.lower() == "map_kd":
            materials[name] = _with_texture(materials[name], argument)
    return materials


def loaded(material: Material, fetch: Fetch) -> Material:
    """A material with its image."""
    if not material.texture:
        return material
    return dataclasses.replace(material, image=textures.read_texture(material.texture, fetch))


def _color(argument: str) -> tuple[float, float, float]:
    words = argument.partition("#")[0].split()
    if not words or words[0] in ("spectral", "xyz"):
        raise UnreadableItemError("it has a material whose color is not given as RGB")
    numbers = [float(word) for word in words[:3]]
    red, green, blue = numbers if len(numbers) == 3 else numbers[:1] * 3
    if not np.isfinite([red, green, blue]).all():
        raise ValueError("a color is not finite")
    return min(max(red, 0.0), 1.0), min(max(green, 0.0), 1.0), min(max(blue, 0.0), 1.0)


def _with_texture(material: Material, argument: str) -> Material:
    """The material with the options and the file of `map_Kd`; what is left after the options is the name."""
    options: dict[str, list[str]] = {}
    while argument.startswith("-"):
        option, _, argument = argument.partition(" ") if " " in argument else argument.partition("\t")
        argument, most = argument.strip(), NUMBERS.get(option, 1)
        if option not in (*NUMBERS, *WORDS):
            raise UnreadableItemError(f"it has a texture with the unknown option `{option}`")
        values: list[str] = []
        while argument and len(values) < most and (option in WORDS or _is_number(argument.split()[0])):
            word, *rest = argument.split(None, 1)
            values.append(word)
            argument = rest[0] if rest else ""
        options[option] = values
    for option, neutral in NEUTRAL.items():
        values = [str(float(value)) if _is_number(value) else value for value in options.get(option, [])]
        if values != neutral[: len(values)]:
            raise UnreadableItemError(f"it has a texture with the option `{option}`")
    scale = [float(value) for value in options.get("-s", [])] + [1.0, 1.0]
    offset = [float(value) for value in options.get("-o", [])] + [0.0, 0.0]
    return dataclasses.replace(
        material,
        texture=argument.strip('"'),
        scale=(scale[0], scale[1]),
        offset=(offset[0], offset[1]),
        wrap="clamp" if options.get("-clamp") == ["on"] else "repeat",
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
