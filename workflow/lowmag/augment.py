"""Views of a tile: the 8 exact flips and rotations, and small changes of colour.

What a tile looks like is a function of (seed, epoch, tile id) alone, by a counter-based generator: a resumed
run, another batch size or another share of unlabelled tiles draws the same view of the same tile.

Views are numbered by three bits, applied in this order: 4 transposes (mirrors at the main diagonal), 2 flips
up-down, 1 flips left-right. So 0 is the tile itself, 1 and 2 its flips, 3 the half turn, 4 and 7 the mirrors
at the diagonals, 5 the quarter turn clockwise and 6 the one counter-clockwise.
"""

import numpy as np
import torch
from torch import Tensor

from lowmag.recipe import Augment

N_VIEWS = 8
TRANSPOSED, UP_DOWN, LEFT_RIGHT = 4, 2, 1
COLOUR_PARAMETERS = ("brightness", "contrast", "saturation", "stain_red", "stain_green", "stain_blue")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def dihedral(x: Tensor, view: int) -> Tensor:
    """View number `view` (0..7) of pictures or maps (..., H, W)."""
    if view & TRANSPOSED:
        x = x.transpose(-2, -1)
    if view & UP_DOWN:
        x = x.flip(-2)
    if view & LEFT_RIGHT:
        x = x.flip(-1)
    return x


def apply_views(x: Tensor, views: Tensor) -> Tensor:
    """Square pictures or maps (N, C, H, H), each in its own view of `views` (N,) long on the same device."""
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(f"pictures are {x.shape[-2]} x {x.shape[-1]}, expected square ones")
    # Three selections and no grouping by view: indexing by a mask would make the host wait for the GPU.
    views = views.view(-1, 1, 1, 1)
    x = torch.where((views & TRANSPOSED).bool(), x.transpose(-2, -1), x)
    x = torch.where((views & UP_DOWN).bool(), x.flip(-2), x)
    return torch.where((views & LEFT_RIGHT).bool(), x.flip(-1), x)


def draw_views(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, *, with_turns: bool = True) -> Tensor:
    """The view of every tile in an epoch, (N,) long on the CPU, uniform over 0..7.

    Without quarter turns over 0..3: both flips, each of every second tile, as DiPalma et al. 2021 draw them.
    """
    n_bits = 3 if with_turns else 2
    bits = _bits(seed, epoch, tile_ids, 1)[:, 0]
    return torch.from_numpy((bits >> np.uint64(64 - n_bits)).astype(np.int64))


def draw_colour(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, options: Augment) -> Tensor:
    """Factors of colour for every tile in an epoch, (N, 6) float32 on the CPU.

    In the order of COLOUR_PARAMETERS, each uniform in 1 ± its option; an option of 0 gives exactly 1.
    """
    amplitudes = np.array([options.brightness, options.contrast, options.saturation, *[options.stain] * 3])
    bits = _bits(seed, epoch, tile_ids, 1 + len(amplitudes))[:, 1:]
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    return torch.from_numpy((1 + amplitudes * (2 * uniform - 1)).astype(np.float32))


def apply_colour(x: Tensor, params: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in 0..1, each with its own change of colour; `params` (N, 6) of `draw_colour`.

    First the optical density -log x of every channel is multiplied by its stain factor (x to that power),
    then brightness multiplies, contrast stretches about the picture's mean luminance and saturation about
    each pixel's luminance. The last three are one affine map, computed in one go. The result is clipped to
    0..1. Both tensors are on one device.
    """
    brightness, contrast, saturation = params[:, :3].view(-1, 3, 1, 1, 1).unbind(1)
    x = x.pow(params[:, 3:, None, None])
    red, green, blue = x.split(1, 1)
    luminance = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    mean = luminance.mean((2, 3), keepdim=True)
    gain = brightness * contrast
    offset = luminance * (gain * (1 - saturation)) + mean * (brightness * (1 - contrast))
    return (x * (gain * saturation) + offset).clamp(0, 1)


def _bits(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, n: int) -> np.ndarray:
    """Random bits (N, n) uint64 keyed by (seed, epoch, tile id, column), each column its own stream."""
    ids = np.asarray(tile_ids).astype(np.uint64)
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(epoch))
    return _mix(_mix(key ^ ids)[:, None] + np.arange(n, dtype=np.uint64) * _GOLDEN)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195), modulo 2^64."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
