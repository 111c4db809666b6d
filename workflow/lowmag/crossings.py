"""How often an outline crosses itself, counted before it is mended.

Mending takes longer than the square of the crossings: a star of 2001 points, 30 kB of GeoJSON, keeps GEOS
busy for minutes.
"""

import numpy as np
import shapely

MOST_CROSSINGS = 10_000
MOST_PAIRS = 200_000_000  # segments whose boxes meet
PAIRS_AT_ONCE = 500_000
MOST_AT_ONCE = 65_536  # segments


def too_many(shape: shapely.Geometry) -> bool:
    """Whether the rings of a shape cross themselves or each other more than MOST_CROSSINGS times.

    So they do where their segments crowd too much to be counted. Segments are taken in random order, so that
    the first tell how crowded all are.
    """
    pieces = _pieces(shape)
    np.random.default_rng(0).shuffle(pieces)
    low, high = pieces.min(axis=1), pieces.max(axis=1)
    tree = shapely.STRtree(shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
    n_crossings = n_pairs = start = 0
    step = max(1, PAIRS_AT_ONCE // max(len(pieces), 1))
    while start < len(pieces):
        stop = min(start + step, len(pieces))
        own, other = tree.query(tree.geometries[start:stop])
        own += start
        later = other > own  # each pair once
        n_pairs += len(own)
        n_crossings += _crossings(pieces[own[later]], pieces[other[later]])
        if n_crossings > MOST_CROSSINGS or n_pairs > MOST_PAIRS:
            return True
        per_piece = max(1.0, n_pairs / stop)
        start, step = stop, min(MOST_AT_ONCE, max(1, int(PAIRS_AT_ONCE / per_piece / 4)))
    return False


def _pieces(shape: shapely.Geometry) -> np.ndarray:
    """Every straight piece of every ring by its ends, (N, 2, 2)."""
    rings = shapely.get_rings(shape)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    goes_on = ring[:-1] == ring[1:]
    return np.stack([points[:-1][goes_on], points[1:][goes_on]], axis=1)


def _crossings(one: np.ndarray, other: np.ndarray) -> int:
    """How many pairs of pieces (N, 2, 2) cross within both; touching ends do not count."""
    apart = _side(one, other[:, 0]) * _side(one, other[:, 1])
    return int(np.count_nonzero((apart < 0) & (_side(other, one[:, 0]) * _side(other, one[:, 1]) < 0)))


def _side(piece: np.ndarray, point: np.ndarray) -> np.ndarray:
    """On which side of each piece its point lies: 1, 0 or -1."""
    along, to = piece[:, 1] - piece[:, 0], point - piece[:, 0]
    return np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])
