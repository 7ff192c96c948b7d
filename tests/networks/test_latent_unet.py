"""The U-Net on latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.networks._plane_networks import CellExchange
from inrflow_core.networks._planes import SPACE, VIDEO, Canvas
from inrflow_core.networks.latent_unet import AttentiveBlock, Config, LatentUNet, build_denoiser
from inrflow_core.planning import flops
from inrflow_core.sets import ConditionEmbedding, ConditionSpec, Grid, SetSpec
from tests import tiny

SMALL = Config(32, (1, 2), depth=1, head_width=16)
CLIP = SetSpec(2, 4, Canvas((8 + 2 * 4, 8), VIDEO))


def latents(channels: int = 4, rows: int = 8, columns: int = 8) -> SetSpec:
    return SetSpec(2, channels, Grid((rows, columns)))


def run(unet: LatentUNet, *, count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, unet.grid[0] * unet.grid[1], unet.first.in_channels, generator=generator)
    return unet(x, torch.linspace(0.1, 0.9, count), ConditionEmbedding())


@pytest.mark.parametrize(
    ("config", "channels", "side", "count"),
    [
        (Config(), 64, 64, 519_220_416),
        (Config(256, (1, 2, 4, 8)), 64, 64, 1_014_986_816),
        (Config(256, (1, 2, 4, 6)), 192, 16, 678_673_600),
    ],
    ids=["afhq", "celebahq", "shapenet"],
)
def test_the_papers_denoisers_have_the_parameters_that_were_counted_in_their_release(config, channels, side, count):
    with torch.device("meta"):
        unet = build_denoiser(config, latents(channels, side, side), ConditionSpec())
    assert sum(weight.numel() for weight in unet.parameters()) == count
    assert config.least_weights <= count


def test_it_answers_0_at_the_start_and_depends_on_the_time_after_it():
    unet = build_denoiser(SMALL, latents(), ConditionSpec())
    assert torch.equal(run(unet), torch.zeros(3, 64, 4))
    tiny.randomize(unet)
    x = torch.randn(1, 64, 4).expand(2, -1, -1)
    early, late = unet(x, torch.tensor([0.2, 0.8]), ConditionEmbedding())
    assert (early - late).abs().mean() > 0.02 * early.abs().mean()


def test_a_condition_vector_changes_the_answer():
    unet = build_denoiser(SMALL, latents(), ConditionSpec())
    tiny.randomize(unet)
    x, t = torch.randn(1, 64, 4), torch.tensor([0.5])
    vector = torch.randn(1, unet.vector_width)
    assert not torch.allclose(unet(x, t, ConditionEmbedding()), unet(x, t, ConditionEmbedding(vector)), atol=1e-4)


def reading(levels: tuple[int, ...] = (1, 1, 2)) -> LatentUNet:
    unet = build_denoiser(Config(32, levels, depth=1, head_width=16), latents(), ConditionSpec(tokens=5))
    tiny.randomize(unet)
    return unet


def answer_to(unet: LatentUNet, tokens: torch.Tensor, is_token: torch.Tensor | None = None) -> torch.Tensor:
    x = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(1))
    return unet(x, torch.tensor([0.3, 0.7]), ConditionEmbedding(tokens=tokens, is_token=is_token))


def test_tokens_are_read_at_the_two_coarsest_levels_and_in_the_middle_and_change_nothing_at_the_start():
    unet = reading()
    widths = [block.block.second.out_channels for block in unet.modules() if isinstance(block, AttentiveBlock)]
    readers = [block for block in unet.modules() if isinstance(block, AttentiveBlock) and block.reading is not None]
    assert (len(widths), len(readers)) == (3 + 2 + 6, 2 + 1 + 4)
    plain, fresh = (build_denoiser(unet.config, latents(), ConditionSpec(tokens=count)) for count in (0, 5))
    missing, unexpected = fresh.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and {name.split(".")[-3] for name in missing} == {"reading"}
    tiny.randomize(plain)
    fresh.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(answer_to(fresh, torch.randn(2, 5, 128)), answer_to(plain, torch.randn(2, 5, 128)))


def test_every_token_counts_and_padding_and_the_order_of_tokens_do_not():
    unet, tokens = reading(), torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(2))
    whole, other = answer_to(unet, tokens), tokens.clone()
    other[:, 4] += 1
    changed = answer_to(unet, other)
    assert (changed - whole).abs().mean() > 1e-3 * whole.abs().mean()
    torch.testing.assert_close(answer_to(unet, tokens.flip(1)), whole, rtol=1e-4, atol=1e-5)
    mask = torch.tensor([[True] * 4 + [False]] * 2)
    assert torch.equal(answer_to(unet, tokens, mask), answer_to(unet, other, mask))
    torch.testing.assert_close(answer_to(unet, tokens, mask), answer_to(unet, tokens[:, :4]), rtol=1e-4, atol=1e-5)


def test_planes_that_are_not_square_pass_it():
    unet = build_denoiser(SMALL, latents(4, 4, 12), ConditionSpec())
    tiny.randomize(unet)
    assert run(unet).shape == (3, 48, 4)


def test_rows_and_columns_keep_their_meaning():
    """Latents that vary along the columns alone, with convolutions that see no edge, give answers that do too."""
    unet = build_denoiser(SMALL, latents(4, 8, 8), ConditionSpec())
    tiny.randomize(unet)
    for layer in unet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding_mode, layer._reversed_padding_repeated_twice = "circular", [layer.padding[0]] * 4  # pyright: ignore
    rows = torch.randn(1, 1, 8, 4).expand(1, 8, 8, 4).flatten(1, 2)
    made = unet(rows, torch.tensor([0.4]), ConditionEmbedding()).unflatten(1, (8, 8))
    assert (made - made[:, :1]).abs().max() < 1e-4 * made.abs().max()
    assert (made - made[:, :, :1]).abs().max() > 0.01 * made.abs().max()


def planes_apart(**changes: Any) -> LatentUNet:
    unet = build_denoiser(replace(SMALL, plane_heads=4, **changes), CLIP, ConditionSpec())
    tiny.randomize(unet)
    return unet


def moved_planes(unet: LatentUNet) -> list[float]:
    """How far the answer moves on each plane of a clip, where the latents of the frame's plane are others."""
    x = torch.randn(2, CLIP.num_queries, 4, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, :64] += 1
    t = torch.tensor([0.3, 0.6])
    change = (unet(changed, t, ConditionEmbedding()) - unet(x, t, ConditionEmbedding())).detach().abs()
    groups = VIDEO.split_groups(change.mT.unflatten(2, unet.grid))
    return [float(plane.max()) for group in groups for plane in group.unbind(1)]


def test_the_papers_denoiser_of_videos_has_the_parameters_and_operations_that_were_counted_in_its_release():
    config = Config(256, (1, 2, 4, 6), head_width=64, plane_heads=16)
    with torch.device("meta"):
        unet = build_denoiser(config, SetSpec(2, 64, Canvas((64, 32), VIDEO)), ConditionSpec())
        with flops.counter() as counter:
            unet(torch.empty(1, 2048, 64), torch.empty(1), ConditionEmbedding())
    assert sum(weight.numel() for weight in unet.parameters()) == 767_856_704
    assert counter.get_total_flops() == pytest.approx(230e9, rel=0.002)


def test_planes_meet_in_the_attention_between_them_alone():
    unet = planes_apart()
    assert min(moved_planes(unet)) > 1e-3
    for layer in unet.modules():
        if isinstance(layer, CellExchange):
            layer.attention.out.weight.data.zero_()
    frame, *time = moved_planes(unet)
    assert frame > 1e-3 and time == [0, 0]


def test_planes_of_one_clip_do_not_reach_another_and_get_its_condition():
    unet = planes_apart()
    x, t = torch.randn(3, CLIP.num_queries, 4), torch.tensor([0.2, 0.5, 0.8])
    vectors = torch.randn(3, unet.vector_width)
    whole = unet(x, t, ConditionEmbedding(vectors))
    alone = unet(x[1:2], t[1:2], ConditionEmbedding(vectors[1:2]))
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone, unet(x[1:2], t[1:2], ConditionEmbedding(vectors[:1])), atol=1e-4)


def test_every_plane_of_a_clip_reads_the_tokens_of_its_own_condition():
    unet = build_denoiser(replace(SMALL, plane_heads=4), CLIP, ConditionSpec(tokens=5))
    tiny.randomize(unet)
    x, t, tokens = torch.randn(2, CLIP.num_queries, 4), torch.tensor([0.2, 0.5]), torch.randn(2, 5, unet.vector_width)
    is_token = torch.tensor([[True] * 5, [True, True, False, False, False]])
    whole = unet(x, t, ConditionEmbedding(tokens=tokens, is_token=is_token))
    alone = unet(x[1:], t[1:], ConditionEmbedding(tokens=tokens[1:], is_token=is_token[1:]))
    torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)
    other = unet(x[1:], t[1:], ConditionEmbedding(tokens=tokens[:1], is_token=is_token[1:]))
    assert (other - alone).abs().max() > 1e-3


def test_planes_of_space_can_pass_it_by_themselves_too():
    spec = SetSpec(2, 4, Canvas((4, 12), SPACE))
    unet = build_denoiser(replace(SMALL, plane_heads=4), spec, ConditionSpec())
    assert torch.equal(run(unet), torch.zeros(3, 48, 4))
    tiny.randomize(unet)
    x, t = torch.randn(1, 48, 4), torch.tensor([0.4])
    swapped = SPACE.join(SPACE.split(x.mT.unflatten(2, (4, 12))).flip(1)).flatten(2).mT
    answer, other = (unet(each, t, ConditionEmbedding()).mT.unflatten(2, (4, 12)) for each in (x, swapped))
    torch.testing.assert_close(SPACE.split(other).flip(1), SPACE.split(answer), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="`plane_heads` is between several planes of latents, and these have one"):
        build_denoiser(replace(SMALL, plane_heads=4), latents(), ConditionSpec())
    with pytest.raises(UsageError, match="3 x 8 is not divisible by 2"):
        build_denoiser(replace(SMALL, plane_heads=4), SetSpec(2, 4, Canvas((14, 8), VIDEO)), ConditionSpec())
    with pytest.raises(ValueError, match="`plane_heads` is 3: it divides 32, 64"):
        replace(SMALL, plane_heads=3)
    with pytest.raises(UsageError, match="6 x 7 is not divisible by 2"):
        build_denoiser(SMALL, latents(4, 6, 7), ConditionSpec())
    with pytest.raises(UsageError, match="a condition of one vector, such as a class, or of tokens"):
        build_denoiser(SMALL, latents(), ConditionSpec(features=3))
    with pytest.raises(UsageError, match=r"`head_width` is 32, and the levels .* are \[16, 32\] wide"):
        build_denoiser(Config(16, (1, 2), head_width=32), latents(), ConditionSpec(tokens=3))
    with pytest.raises(ValueError, match="`head_width` is 32: it divides 48, 48"):
        Config(24, (1, 2), head_width=32)


def test_with_the_same_weights_it_answers_as_the_library_diffusers():
    """UNet2DModel with one DownBlock2D and an AttnDownBlock2D; their weights are named by their order."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(128, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
    )
    tiny.randomize(theirs)
    ours = build_denoiser(Config(128, (1, 2), depth=2, head_width=32), latents(), ConditionSpec())
    _copy(theirs, ours)
    x, t = torch.randn(2, 64, 4), torch.tensor([0.019, 0.731])
    expected = theirs(x.mT.unflatten(2, (8, 8)), 1000 * t).sample.flatten(2).mT
    assert (ours(x, t, ConditionEmbedding()) - expected).abs().max() < 1e-5 * expected.abs().max()


def _copy(theirs: Any, ours: LatentUNet) -> None:
    pairs: list[Any] = [(theirs.time_embedding.linear_1, ours.time[0]), (theirs.time_embedding.linear_2, ours.time[2])]
    pairs += [(theirs.conv_in, ours.first), (theirs.conv_norm_out, ours.norm), (theirs.conv_out, ours.last)]
    layers = []
    for level in theirs.down_blocks:
        layers += _blocks(level) + [sampler.conv for sampler in level.downsamplers or []]
    middle = theirs.mid_block
    layers += [(middle.resnets[0], middle.attentions[0]), (middle.resnets[1], None)]
    for level in theirs.up_blocks:
        layers += _blocks(level) + [sampler.conv for sampler in level.upsamplers or []]
    for layer, own in zip(layers, [*ours.down, *ours.middle, *ours.up], strict=True):
        if not isinstance(own, AttentiveBlock):
            pairs.append((layer, own.convolution))
            continue
        block, attention = layer
        pairs += [
            *(
                (block.norm1, own.block.first_norm),
                (block.conv1, own.block.first),
                (block.norm2, own.block.second_norm),
            ),
            *((block.conv2, own.block.second), (block.time_emb_proj, own.block.embedding)),
        ]
        if block.conv_shortcut is not None:
            pairs.append((block.conv_shortcut, own.block.shortcut))
        if attention is not None:
            mine = own.attention
            assert mine is not None
            pairs += [
                *((attention.group_norm, mine.norm), (attention.to_q, mine.query), (attention.to_k, mine.key)),
                *((attention.to_v, mine.value), (attention.to_out[0], mine.out)),
            ]
    for source, target in pairs:
        target.load_state_dict(source.state_dict())


def _blocks(level) -> list:
    attentions = getattr(level, "attentions", [None] * len(level.resnets))
    return list(zip(level.resnets, attentions, strict=True))
