"""From the counts of some blocks to the time of a whole launch: the largest of what binds, by the rates of a card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench.ptx import rates
from bench.ptx.counts import Counts
from bench.ptx.rates import Card
from bench.ptx.resources import Resources


@dataclass(frozen=True)
class Launched:
    """The launch that blocks were executed of. `outputs` and the bytes are of the whole launch."""

    blocks: int
    threads: int
    shared_bytes: int
    resources: Resources
    outputs: int
    bytes: int  # that cannot be avoided: each logit read once, each output written once
    bytes_of_map: int  # the part of them that is the previous scale's
    uses_wide_products: bool
    rounds: float = 1.0  # what a block does, over what an executed one did


@dataclass(frozen=True)
class Times:
    """Microseconds."""

    memory: float  # what cannot be avoided
    cache: float  # the sectors of logits that were asked for
    issue: float
    shared: float
    matrix: float
    float64: float
    latency: (
        float  # of the blocks that follow one another on a multiprocessor, however many there are at once
    )
    exposed: float  # the load of the map, where no other block hides it

    @property
    def binds(self) -> str:
        named = self._throughputs
        most = max(named, key=lambda name: named[name])
        return "latency" if self.latency > self.exposed + named[most] else most

    @property
    def counted(self) -> float:
        """The latency contains the load of the map."""
        return max(self.latency, self.exposed + max(self._throughputs.values()))

    @property
    def _throughputs(self) -> dict[str, float]:
        named = asdict(self)
        del named["exposed"], named["latency"]
        return named


def times(counts: Counts, launch: Launched, card: Card, logits_sectors: int = 0) -> Times:
    """The fullest multiprocessor decides, but for memory and its cache, which all share."""
    on_fullest = -(-launch.blocks // card.multiprocessors)
    share = (
        on_fullest * launch.rounds / counts.blocks
    )  # of the executed blocks' counts, on that multiprocessor
    cycles = 1e6 / card.clock * share
    products = card.wide_products if launch.uses_wide_products else card.products
    at_once = min(
        rates.resident(card, launch.threads, launch.resources.registers, launch.shared_bytes), on_fullest
    )
    in_turn = -(-on_fullest // at_once) * launch.rounds
    latency = in_turn * counts.latency + counts.first_latency - counts.latency
    # A block that is alone waits for its map; with another one beside it, that one works meanwhile.
    waits = launch.bytes_of_map / card.copy * 1e6 if at_once == 1 else 0.0
    whole = launch.blocks * launch.rounds / counts.blocks
    return Times(
        memory=launch.bytes / card.copy * 1e6,
        cache=32 * logits_sectors * whole / card.cache * 1e6,
        issue=counts.issued / rates.ISSUE * cycles,
        shared=counts.wavefronts / rates.WAVEFRONTS * cycles,
        matrix=sum(n / products[kind] for kind, n in counts.products.items()) * cycles,
        float64=counts.instructions["float64"] / card.float64 * cycles,
        latency=latency / card.clock * 1e6,
        exposed=waits,
    )


def row(counts: Counts, launch: Launched, card: Card, logits_sectors: int) -> dict[str, Any]:
    """What `bench.counted` writes of a launch."""
    found, made = times(counts, launch, card, logits_sectors), launch.resources
    executed = launch.outputs * counts.blocks / launch.blocks / launch.rounds
    per = 32 / executed
    fewest_sectors = launch.bytes * counts.blocks / launch.blocks / launch.rounds / 32
    classes = {name: round(count * per, 2) for name, count in sorted(counts.instructions.items())}
    return {
        "instructions_per_output": round(counts.issued * per, 2),
        "moves_per_output": classes.get("mov", 0.0),
        "instructions_by_class": classes,
        "wavefronts_per_32": round(counts.wavefronts * per, 2),
        "wavefronts_over_fewest": round(counts.wavefronts / counts.fewest, 3) if counts.fewest else 1.0,
        "wavefronts_by_access": {
            name: [round(count * per, 2), round(counts.fewest_by_access[name] * per, 2)]
            for name, count in sorted(counts.by_access.items())
        },
        "sectors_per_32": round(logits_sectors * per, 2),
        "sectors_over_fewest": round(logits_sectors / fewest_sectors, 3),
        "sectors_by_tensor": {name: round(count * per, 2) for name, count in sorted(counts.sectors.items())},
        "products_per_output": {kind: round(n / executed, 2) for kind, n in sorted(counts.products.items())},
        "barriers_per_block": round(counts.barriers / counts.blocks, 1),
        "bytes": launch.bytes,
        "blocks": launch.blocks,
        "threads": launch.threads,
        "shared_bytes": launch.shared_bytes,
        "registers": made.registers,
        "spilled_bytes": made.spilled,
        "resident_blocks": rates.resident(
            card, launch.threads, launch.resources.registers, launch.shared_bytes
        ),
        "machine_code": {"instructions": made.instructions, "loops": [asdict(loop) for loop in made.loops]},
        "times_us": {name: round(value, 1) for name, value in asdict(found).items()},
        "counted_us": round(found.counted, 1),
        "copy_us": round(found.memory, 1),
        "binds": found.binds,
    }
