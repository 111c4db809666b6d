"""What a pass of a student costs one core, for tiles of 512 um: the basis of the plans in docs/scale.md.

    python benchmarks/passes.py            five rounds
    python benchmarks/passes.py --quick    one

ResNet-10 with GroupNorm as in config.yaml (stride 32), and with the strides that lowmag's own method takes
(`cell_um: 64`), on noise, from bytes to logits on one thread. The networks take turns. Seconds are of the
processor, which depend little on what else the machine does; medians and range over the rounds.
"""

import argparse
import statistics
import time

import torch
from lowmag.networks import Network, build
from lowmag.recipe import Architecture

FIELD_UM = 512
STRIDES = {
    10: [32],
    5: [32],
    2.5: [32, 16],
    1.25: [32, 8],
    0.625: [32, 8],
}  # cells of 64 um at most, or stride 8
PIXELS = 1 << 21  # of a batch


def main() -> None:
    """Print tiles per second of a core, one line per magnification and stride."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    rounds = 1 if parser.parse_args().quick else 5
    torch.set_num_threads(1)
    kinds = [(magnification, stride) for magnification, strides in STRIDES.items() for stride in strides]
    networks = {kind: _network(*kind) for kind in kinds}
    found: dict[tuple[float, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, network in networks.items():
            found[kind].append(_rate(network, _px(kind[0])))
    for (magnification, stride), rates in found.items():
        spread = f"({min(rates):.4g} to {max(rates):.4g}, n={rounds})"
        kind = f"{magnification:g}x, {_px(magnification)} px, stride {stride}"
        print(f"{kind}: {statistics.median(rates):.4g} tiles/s {spread}")


def _px(magnification: float) -> int:
    return round(FIELD_UM * magnification / 10)


def _network(magnification: float, stride: int) -> Network:
    network = build(Architecture(model="resnet10gn", stride=stride), 3, _px(magnification))
    return network.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def _rate(network: Network, px: int) -> float:
    """Tiles per second of the processor, after one pass that is not counted."""
    batch = torch.randint(256, (max(1, PIXELS // px**2), 3, px, px), dtype=torch.uint8)
    for _ in range(2):
        start = time.process_time()
        network(batch.to(memory_format=torch.channels_last).float().div_(255))
    return len(batch) / (time.process_time() - start)


if __name__ == "__main__":
    main()
