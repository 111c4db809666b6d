"""What another tool takes to read tiles of 512 px at 10x; runs in that tool's own environment.

    PYTHON tile_peers.py TOOL SLIDE PLACES.json

TOOL is tiatoolbox, histolab or lazyslide. PLACES.json holds level-0 x and y of every tile. Prints JSON: the
version, and seconds of each of three rounds over all tiles. Opening the slide is not counted.
"""

import importlib.metadata
import json
import sys
import tempfile
import time

EDGE, FIELD_PX, MPP, ROUNDS = 512, 1024, 1.0, 3


def tiatoolbox_tiles(slide, places):
    from tiatoolbox.wsicore.wsireader import WSIReader

    reader = WSIReader.open(slide)
    return lambda: (reader.read_rect((x, y), (EDGE, EDGE), resolution=MPP, units="mpp") for x, y in places)


def histolab_tiles(slide, places):
    from histolab.slide import Slide
    from histolab.types import CoordinatePair

    reader = Slide(slide, tempfile.mkdtemp())

    def tiles():
        for x, y in places:
            corners = CoordinatePair(x, y, x + FIELD_PX, y + FIELD_PX)
            yield reader.extract_tile(corners, tile_size=(EDGE, EDGE), level=0).image

    return tiles


def lazyslide_tiles(slide, places):
    from wsidata import open_wsi

    wsi = open_wsi(slide)

    def tiles():  # as its own iterator reads a tile of 512 px at 10x of such a slide
        for x, y in places:
            yield wsi.reader.resize_img(
                wsi.reader.get_region(x, y, FIELD_PX, FIELD_PX, level=0), (EDGE, EDGE)
            )

    return tiles


def main():
    tool, slide, places = sys.argv[1:]
    with open(places, encoding="utf-8") as file:
        places = json.load(file)
    tiles = {"tiatoolbox": tiatoolbox_tiles, "histolab": histolab_tiles, "lazyslide": lazyslide_tiles}[tool]
    read = tiles(slide, places)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        n = sum(1 for _ in read())
        seconds.append(time.perf_counter() - start)
        assert n == len(places), (n, len(places))
    print(json.dumps({"version": importlib.metadata.version(tool), "seconds": seconds}))


if __name__ == "__main__":
    main()
