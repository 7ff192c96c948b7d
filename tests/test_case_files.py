"""The scripts of reported cases, where they are beside the checkout: every file has its value, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import InrflowError, UnreadableItemError
from inrflow_core.geometry import ply_reader
from inrflow_core.mesh_files import reading
from inrflow_core.proteins import fasta, structure_reader
from inrflow_core.visualization import image_io

pytestmark = pytest.mark.slow
BOX = (112, [2, 4, 8])
"""The area of the box of the cases, and its size."""
Areas = dict[str, tuple[float, list[float]]]
MESHES: dict[str, Areas] = {
    "10_ply": {"m_concave.ply": (7, [4, 4, 0])},
    "11_glb": {
        "a_nested.glb": (16, [11, 2, 1]), "b_matrix.glb": (14, [1, 3, 1]), "c_quant_norm.glb": (12, [4, 1, 1]),
        "d_quant_plain.glb": (12, [4, 1, 1]), "e_sparse.glb": (22, [5, 1, 1]), "h_strip_fan.glb": (2, [4, 1, 0]),
        "i_scene1.glb": (10, [1, 2, 1]), "j_orphan.glb": (6, [1, 1, 1]), "k_interleaved.glb": (28, [1, 2, 4]),
        "l_unindexed.glb": (28, [1, 2, 4]), "m_skin.glb": (12, [8, 1, 1]), "n_morph.glb": (10, [1, 2, 1]),
        "o_points_lines.glb": (6, [1, 1, 1]), "r_mirrored.glb": (10, [1, 2, 1]), "s_shared.glb": (28, [1, 2, 4]),
        "t_zero_scale.glb": (6, [1, 1, 1]),
    },
    "12_obj": {
        "c_negative_twice.obj": (16, [2, 4, 8]), "k_groups.obj": (116, [12, 4, 8]), "n_concave.obj": (7, [4, 4, 0]),
        "v_map_options.obj": (1, [1, 1, 0]), "w_map_plain.obj": (1, [1, 1, 0]), "x_two_mtl.obj": (2, [2, 1, 0]),
        "y_uv_no_mtl.obj": (1, [1, 1, 0]),
    },
    "13_stl": {},
    "14_off": {"r_concave.off": (7, [4, 4, 0]), "v_pentagon.off": (8, [4, 3, 0])},
}  # fmt: skip
"""Areas and sizes of the meshes that are not the box."""
REFUSED = {
    "n_points_only.ply": "without faces", "f_draco_half.glb": "draco", "g_draco_all.glb": "draco",
    "p_cycle.glb": "no tree", "q_instancing.glb": "instancing", "q_zero.obj": "do not exist",
    "r_beyond.obj": "do not exist", "z_empty.obj": "without faces", "zz_freeform.obj": "free-form",
    "zz_html.obj": "not define", "h_bin_short.stl": "promises more triangles", "i_bin_zero_count.stl": "promises no triangles",
    "n_nan.stl": "not finite", "p_text_huge_exp.stl": "read as a .stl", "q_comma.stl": "read as a .stl",
    "q_binary.off": "binary OFF",
}  # fmt: skip
COLORS = {
    **dict.fromkeys(("a_color_f32", "b_color_u8", "c_color_u16", "d_factor"), [255, 188, 0]),
    **dict.fromkeys(("e_texture", "h_texcoord1", "i_uv_u16", "m_webp"), [0, 0, 255]),
    **dict.fromkeys(("f_texture_factor", "g_texture_transform", "n_texture_color"), [255, 0, 0]),
    "j_no_texture": [255, 255, 255], "k_no_material": None, "l_specgloss": [0, 255, 0],
}  # fmt: skip
"""The color in the middle of the first triangle."""
CLOUDS_REFUSED = ("m_upper", "n_nan", "u_comma", "v_trunc", "w_nan_text", "y_bom")
STRUCTURES_REFUSED = {
    "20_pdb": ("w_unk", "x_dup_atoms", "y_nan", "zb_gz_not", "zj_big", "zk_his_2sets"),
    "21_cif": ("zk_trunc", "zm_5letter", "zp_save_frames"),
    "22_more": ("f_same_number", "g_all_one", "i_question_numbers", "j_dimer_same_letter", "l_sec"),
}
SEQUENCES = {
    "p_microhet": "MKHTWYH", "v_mse": "MKH", "zn_nonloop": "M", "zu_same_auth_number_name": "MGGSAAK",
    "b_microhet_pdb": "MKHTWYH", "c_microhet_cif": "MKHTWYH", "d_microhet_interleaved": "MKHTWYH",
    "e_same_number": "MGGSAAK", "h_no_numbers": "MGGSAAK",
    **dict.fromkeys(("g_cyx", "g_ash", "g_glh", "g_lyn", "g_cym"), "MKCDEKH"),
}  # fmt: skip
"""Those that are not MKHSWYH."""


@pytest.mark.parametrize("name", MESHES)
def test_meshes_of_the_cases_have_their_area_or_are_refused(case: Callable[[str], Path], name: str) -> None:
    folder = case(name)
    for file in sorted(path.name for path in folder.iterdir() if path.suffix in reading.SUFFIXES):
        if file in REFUSED:
            with pytest.raises(UnreadableItemError, match=REFUSED[file]):
                reading.load(folder, file, with_colors=False)
            continue
        mesh = reading.load(folder, file, with_colors=False).mesh
        first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
        area = np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2
        size = np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0)
        assert (pytest.approx(area, rel=1e-4), pytest.approx(size, abs=1e-4)) == MESHES[name].get(file, BOX), file


def test_colors_of_glb_files_of_the_cases_are_those_of_gltf(case: Callable[[str], Path]) -> None:
    folder = case("16_glb_colour")
    for name, expected in COLORS.items():
        body = reading.load(folder, f"{name}.glb", with_colors=True)
        color = body.colors(np.array([0]), np.full((1, 3), 1 / 3))[0].round().astype(int).tolist()
        assert (color if body.has_colors else None) == expected, name
    folder = case("17_glb_colour2")
    for file in sorted(folder.iterdir()):
        body = reading.load(folder, file.name, with_colors=True)
        light = 188 if file.name == "f_factor_half.glb" else 255
        colors = body.colors(np.array([0, 3]), np.full((2, 3), 1 / 3)).round().astype(int).tolist()
        assert colors == [[light, 0, 0], [0, light, 0]], file.name


def test_clouds_of_the_cases_keep_positions_and_colors(case: Callable[[str], Path]) -> None:
    folder = case("15_ply_cloud")
    positions, colors = np.load(folder.parent / "P.npy"), np.load(folder.parent / "C.npy") / 127.5 - 1
    for file in sorted(folder.iterdir()):
        if file.stem in CLOUDS_REFUSED:
            with pytest.raises(InrflowError):
                ply_reader.read_cloud(file)
            continue
        points, center = ply_reader.read_cloud(file)
        origin = [4.5e6, 5e5, 200] if file.stem == "z_far" else np.zeros(3)
        np.testing.assert_allclose(points[:, :3] + center, positions + origin, atol=1e-6, err_msg=file.name)
        if points.shape[1] == 6:
            np.testing.assert_allclose(points[:, 3:], colors, atol=1e-6, err_msg=file.name)


def test_images_of_the_cases_are_read_by_the_one_rule(case: Callable[[str], Path]) -> None:
    for file in sorted(case("01_deep_grey").iterdir()):
        row = np.asarray(image_io.read_image(file, "RGB"))[0, :, 0].astype(int)
        assert row[0] == 0 and row[-1] == 255 and np.abs(row - np.linspace(0, 255, 64)).max() <= 1.01, file.name
    for file in sorted(case("02_float_tiff").iterdir()):
        with pytest.raises(InrflowError, match="floating-point"):
            image_io.read_image(file)
    for file in sorted(case("03_palette_alpha").iterdir()):
        left = np.asarray(image_io.read_image(file))[0, 0].tolist()
        assert left == ([255, 127, 127] if file.name == "c_pal_half.png" else [255, 255, 255]), file.name


@pytest.mark.parametrize("name", STRUCTURES_REFUSED)
def test_structures_of_the_cases_have_their_residues_or_are_refused(case: Callable[[str], Path], name: str) -> None:
    for file in sorted(case(name).iterdir()):
        stem = file.name.partition(".")[0]
        if stem in STRUCTURES_REFUSED[name]:
            with pytest.raises(InrflowError):
                structure_reader.read(file)
        else:
            assert structure_reader.read(file).sequence == SEQUENCES.get(stem, "MKHSWYH"), file.name


def test_sequences_of_the_cases_are_read_or_refused(case: Callable[[str], Path]) -> None:
    folder = case("23_fasta")
    for name in (
        "a_plain.fa",
        "c_wrapped.fa",
        "d_cr_only.fa",
        "e_gz.fa.gz",
        "p_bom8.fa",
        "y_nel.fa",
        "zd_space_header.fa",
    ):
        assert fasta.read_fasta(folder / name)[0] == ("one", "MKTAYIAKQR"), name
    for name in ("j_numbers", "k_star_inside", "l_gap", "m_x", "o_bom16", "u_empty", "w_dna", "x_fastq", "zb_nbsp"):
        with pytest.raises(InrflowError):
            fasta.read_fasta(folder / f"{name}.fa")
