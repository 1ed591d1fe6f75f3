"""`python -m ssg_kernels info` and `python -m ssg_kernels demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ssg_kernels import demo, info
from ssg_kernels._checks import INTERPOLATIONS, PRIORS


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return number


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ssg_kernels", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info | demo")
    commands.add_parser("info", help="versions, and which backends are usable here")
    default = demo.Options()
    tour = commands.add_parser(
        "demo",
        help="SSG over VAR's ten scales, timed beside plain PyTorch",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    tour.add_argument(
        "--beta", type=float, default=default.beta, help="strength at the first scale, decaying linearly"
    )
    tour.add_argument(
        "--prior", choices=PRIORS, default=default.prior, help="what stands for the coarser scale"
    )
    tour.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default=default.interpolation, help="of the prior"
    )
    tour.add_argument("--rescale", action="store_true", help="keep the amplitude of the coarse spectrum")
    tour.add_argument("--batch", type=_at_least(1), default=default.batch, help="images at once")
    tour.add_argument(
        "--vocabulary", type=_at_least(1), default=default.vocabulary, help="tokens to choose from"
    )
    tour.add_argument("--repeats", type=_at_least(1), default=default.repeats, help="timed generations")
    tour.add_argument("--seed", type=int, default=default.seed, help="of the random logits")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = vars(_arguments(argv))
    if arguments.pop("command") == "info":
        print(info.report())
        return 0
    return demo.run(demo.Options(**arguments))


if __name__ == "__main__":
    sys.exit(main())
