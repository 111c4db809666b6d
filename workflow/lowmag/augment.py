"""Views of a tile: the 8 exact flips and rotations, changes of colour, and general turns, zooms and shifts.

What a tile looks like is a function of (seed, epoch, tile id) alone, by a counter-based generator: a resumed
run, another batch size or another share of unlabelled tiles draws the same view of the same tile. Every kind
of change has its own column of the generator, so that one more of them leaves the others as they were.

Views are numbered by three bits, applied in this order: 4 transposes (mirrors at the main diagonal), 2 flips
up-down, 1 flips left-right. So 0 is the tile itself, 1 and 2 its flips, 3 the half turn, 4 and 7 the mirrors
at the diagonals, 5 the quarter turn clockwise and 6 the one counter-clockwise.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowmag.recipe import Augment

N_VIEWS = 8
TRANSPOSED, UP_DOWN, LEFT_RIGHT = 4, 2, 1
COLOUR_PARAMETERS = ("brightness", "contrast", "saturation", "stain_red", "stain_green", "stain_blue", "hue")
GEOMETRY_PARAMETERS = ("angle", "zoom", "right", "down")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601

# Columns of the generator; each `*_CHANCE` says whether a tile is changed at all (`Augment.probability`).
VIEW, COLOUR, COLOUR_CHANCE = 0, range(1, 8), 8
ANGLE, ANGLE_CHANCE, ZOOM, ZOOM_CHANCE, SHIFT, SHIFT_CHANCE = 9, 10, 11, 12, (13, 14), 15


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


def draw_views(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, n_views: int = N_VIEWS) -> Tensor:
    """The view of every tile in an epoch, (N,) long on the CPU, uniform over the first `n_views` (1 to 8).

    Of 4: both flips, each of every second tile, as DiPalma et al. 2021 draw them; of 2: the flip left-right.
    """
    bits = _bits(seed, epoch, tile_ids, [VIEW])[:, 0]
    return torch.from_numpy((bits >> np.uint64(32)).astype(np.int64) * n_views >> 32)


def draw_colour(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, options: Augment) -> Tensor:
    """Changes of colour for every tile in an epoch, (N, 6) float32 on the CPU, with hue (N, 7).

    In the order of COLOUR_PARAMETERS: factors uniform in 1 ± their option, hue in turns of the colour circle
    uniform in ± its option; an option of 0 gives exactly 1, or 0 for hue. Tiles that `options.probability`
    leaves alone have all of them so.
    """
    amplitudes = [options.brightness, options.contrast, options.saturation, *[options.stain] * 3, options.hue]
    neutral = np.array([1.0] * 6 + [0.0])
    n = len(COLOUR_PARAMETERS) if options.hue else len(COLOUR_PARAMETERS) - 1
    uniform = _uniform(seed, epoch, tile_ids, [*COLOUR[:n], COLOUR_CHANCE])
    drawn = neutral[:n] + np.array(amplitudes[:n]) * (2 * uniform[:, :n] - 1)
    changed = uniform[:, n:] < options.probability
    return torch.from_numpy(np.where(changed, drawn, neutral[:n]).astype(np.float32))


def draw_geometry(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, options: Augment) -> Tensor:
    """Turn, zoom and shift of every tile in an epoch, (N, 4) float32 on the CPU, as GEOMETRY_PARAMETERS.

    Angles in radians counter-clockwise, shifts as shares of the edge; each uniform in its range, and each by
    itself left alone with the probability that `options.probability` leaves.
    """
    columns = [ANGLE, ZOOM, *SHIFT, ANGLE_CHANCE, ZOOM_CHANCE, SHIFT_CHANCE, SHIFT_CHANCE]
    uniform = _uniform(seed, epoch, tile_ids, columns)
    turn, (smallest, largest), (right, down) = math.radians(options.rotation), options.zoom, options.shift
    lowest = np.array([-turn, smallest, -right, -down])
    drawn = lowest + (np.array([turn, largest, right, down]) - lowest) * uniform[:, :4]
    changed = uniform[:, 4:] < options.probability
    return torch.from_numpy(np.where(changed, drawn, [0.0, 1.0, 0.0, 0.0]).astype(np.float32))


def apply_colour(x: Tensor, params: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in 0..1, each with its own change of colour; `params` of `draw_colour`.

    First the optical density -log x of every channel is multiplied by its stain factor (x to that power),
    then brightness multiplies, contrast stretches about the picture's mean luminance, saturation about each
    pixel's luminance, and the hue is turned where there is one. Each of them is clipped to 0..1, as
    torchvision's ColorJitter does. Both tensors are on one device.
    """
    brightness, contrast, saturation = params[:, :3].view(-1, 3, 1, 1, 1).unbind(1)
    x = (x.pow(params[:, 3:6, None, None]) * brightness).clamp_(0, 1)
    x = torch.lerp(_luminance(x).mean((2, 3), keepdim=True), x, contrast).clamp_(0, 1)
    x = torch.lerp(_luminance(x), x, saturation).clamp_(0, 1)
    return turn_hue(x, params[:, 6]) if params.shape[1] > 6 else x


def _luminance(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, 1)
    return LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in 0..1 with their hue moved by `turns` (N,) of the colour circle.

    Hue, saturation and value are those of Smith 1978 (doi 10.1145/965139.807361), as in torchvision's
    `adjust_hue`: value and saturation stay, greys stay.
    """
    red, green, blue = x.unbind(1)
    value, lowest = x.amax(1), x.amin(1)
    chroma = value - lowest
    scale = torch.where(chroma > 0, chroma, 1.0)
    # In sixths of the circle, counted from red; the first of equal channels decides, all give the same hue.
    hue = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, 2 + (blue - red) / scale, 4 + (red - green) / scale),
    )
    hue = hue + 6 * turns.view(-1, 1, 1)
    # A channel falls from the value by the chroma within the third of the circle that is opposite to it.
    places = [(hue + start).remainder(6) for start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1)


def apply_geometry(x: Tensor, params: Tensor, border: Literal["reflect", "black"]) -> Tensor:
    """Pictures (N, 3, H, W), each turned about its centre, enlarged and shifted as `draw_geometry` says.

    One bilinear resampling for all three. What comes from outside the picture is its mirror image, or black
    (then interpolated with the picture at its border). Both tensors are on one device.
    """
    angle, zoom, right, down = params.unbind(1)
    height, width = x.shape[2:]
    # grid_sample asks where in the picture each pixel of the result comes from: the inverse, with the picture
    # reaching from -1 to 1 in both directions.
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    down_by_right, right_by_down = sin * width / height, -sin * height / width
    rows = [
        [cos, right_by_down, -2 * (cos * right + right_by_down * down)],
        [down_by_right, cos, -2 * (down_by_right * right + cos * down)],
    ]
    inverse = torch.stack([torch.stack(row, 1) for row in rows], 1)
    places = functional.affine_grid(inverse, list(x.shape), align_corners=False)
    padding = "reflection" if border == "reflect" else "zeros"
    return functional.grid_sample(x, places, mode="bilinear", padding_mode=padding, align_corners=False)


def _uniform(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Random numbers in [0, 1), (N, len(columns)) float64."""
    return (_bits(seed, epoch, tile_ids, columns) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _bits(seed: int, epoch: int, tile_ids: Tensor | np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Random bits (N, len(columns)) uint64 keyed by (seed, epoch, tile id, column), each its own stream."""
    ids = np.asarray(tile_ids).astype(np.uint64)
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(epoch))
    return _mix(_mix(key ^ ids)[:, None] + np.array(columns, np.uint64) * _GOLDEN)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195), modulo 2^64."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
