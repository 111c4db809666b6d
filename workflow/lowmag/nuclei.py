"""Nuclei of the demo slides: small pictures of single nuclei, and stamping them onto the haematoxylin layer.

The three chromatin patterns have the same area, mean and variance of optical density, so that they differ
in detail alone: at 2.5x a nucleus is two or three pixels and the patterns are nearly the same.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

CHROMATIN = ("ringed", "clumped", "cored")
SPINDLE = len(CHROMATIN)  # nuclei of the stroma, the same in every growth pattern
DIAMETER_UM = 11.0
ROTATIONS = 16
VARIANTS = 4
SUPERSAMPLING = 4
MEAN_LEVEL = 120  # grey level of a nucleus in the layer
LAYER_DENSITY = 0.0054  # optical density of green per grey level of the layer
CONTRAST = 0.5  # standard deviation over mean of the density inside a nucleus


@dataclass(frozen=True)
class Nuclei:
    """Where nuclei are and what they look like; arrays over nuclei."""

    x_um: NDArray[np.floating]
    y_um: NDArray[np.floating]
    kind: NDArray[np.intp]  # index of CHROMATIN, or SPINDLE
    is_long: NDArray[np.bool_]
    angle: NDArray[np.floating]  # of the long axis, radians


def stamp(layer: NDArray[np.uint8], nuclei: Nuclei, mpp: float, rng: np.random.Generator) -> None:
    """Darken `layer` (haematoxylin, 0..255) where the nuclei are."""
    bank = _bank(mpp)
    edge = bank.shape[-1]
    left = np.rint(nuclei.x_um / mpp - edge / 2).astype(np.intp)
    top = np.rint(nuclei.y_um / mpp - edge / 2).astype(np.intp)
    inside = (left >= 0) & (top >= 0) & (left + edge <= layer.shape[1]) & (top + edge <= layer.shape[0])
    turn = np.rint(nuclei.angle * (ROTATIONS / np.pi)).astype(np.intp) % ROTATIONS
    variant = rng.integers(VARIANTS, size=turn.size)
    flat = ((nuclei.kind * 2 + nuclei.is_long) * ROTATIONS + turn) * VARIANTS + variant
    pictures = bank.reshape(-1, edge, edge)
    for x, y, i in zip(left[inside].tolist(), top[inside].tolist(), flat[inside].tolist(), strict=True):
        patch = layer[y : y + edge, x : x + edge]
        np.maximum(patch, pictures[i], out=patch)


@cache
def _bank(mpp: float) -> NDArray[np.uint8]:
    """Pictures of nuclei, (kind, aspect, rotation, variant, edge, edge), centred; all slides share them."""
    rng = np.random.default_rng(0)
    edge = int(np.ceil(1.7 * DIAMETER_UM / mpp)) | 1
    fine = edge * SUPERSAMPLING
    offset = ((np.arange(fine) + 0.5) / SUPERSAMPLING - edge / 2) * mpp
    y_um, x_um = np.meshgrid(offset, offset, indexing="ij")
    bank = np.empty((SPINDLE + 1, 2, ROTATIONS, VARIANTS, edge, edge), np.uint8)
    for kind, aspect, turn, variant in np.ndindex(bank.shape[:4]):
        angle = np.pi * turn / ROTATIONS
        size = rng.uniform(0.9, 1.1) * DIAMETER_UM / 2
        ratio = 2.6 if kind == SPINDLE else (1.75 if aspect else 1.12)
        shrink = 0.75 if kind == SPINDLE else 1.0
        u = (x_um * np.cos(angle) + y_um * np.sin(angle)) / (size * shrink * np.sqrt(ratio))
        v = (y_um * np.cos(angle) - x_um * np.sin(angle)) / (size * shrink / np.sqrt(ratio))
        light = np.exp(-LAYER_DENSITY * MEAN_LEVEL * _nucleus(u, v, kind, rng))
        light = light.reshape(edge, SUPERSAMPLING, edge, SUPERSAMPLING).mean((1, 3))
        bank[kind, aspect, turn, variant] = np.rint(-np.log(light) / LAYER_DENSITY).clip(0, 255)
    return bank


def _nucleus(u, v, kind: int, rng: np.random.Generator):
    """Relative density of one nucleus: inside the unit circle of (u, v) values of mean 1, outside 0.

    A pattern says in which order points are dark; the values are the same for all, spread from light to dark.
    """
    radius = np.hypot(u, v)
    inside = radius < 1
    if kind == SPINDLE:
        return np.where(inside, 1.0, 0.0)
    if CHROMATIN[kind] == "ringed":
        darkness = -np.abs(radius - 0.6)
    elif CHROMATIN[kind] == "cored":
        darkness = -radius
    else:
        angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi / 5 * (np.arange(5) + rng.uniform(-0.2, 0.2, 5))
        away = rng.uniform(0.5, 0.6, 5)
        clumps = zip(away * np.cos(angles), away * np.sin(angles), strict=True)
        darkness = -np.min([np.hypot(u - x, v - y) for x, y in clumps], axis=0)
    share = (darkness[inside].argsort().argsort() + 0.5) / inside.sum()  # of the nucleus that is lighter
    relative = np.zeros_like(u)
    relative[inside] = 1 + CONTRAST * np.sign(share - 0.5) * np.sqrt(np.abs(2 * share - 1)) * np.sqrt(2)
    return relative
