"""`python -m ssg_kernels info` and `python -m ssg_kernels demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ssg_kernels import demo, info
from ssg_kernels._checks import DTYPES, INTERPOLATIONS, PRIORS


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return number


def _grid(text: str) -> tuple[int, int]:
    try:
        h, w = (int(n) for n in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be HxW, such as 16x16, got {text!r}") from None
    return h, w


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan",
        nargs=2,
        type=_grid,
        metavar=("SIZE", "PREV_SIZE"),
        help="a step, such as 16x16 13x13: how each GPU backend would compute it, and its time by counting; "
        "the options below describe that step",
    )
    default = info.PlanRequest((1, 1), (1, 1))
    parser.add_argument(
        "--vocabulary", type=_at_least(1), default=default.vocabulary, help="tokens to choose from"
    )
    parser.add_argument("--batch", type=_at_least(1), default=default.batch, help="images at once")
    dtypes = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
    parser.add_argument("--dtype", choices=dtypes, default=default.dtype, help="of the logits")
    parser.add_argument("--cfg", action="store_true", help="merge a conditional and an unconditional half")
    parser.add_argument(
        "--prior", choices=PRIORS, default=default.prior, help="what stands for the coarser scale"
    )
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default=default.interpolation, help="of the prior"
    )
    parser.add_argument("--target", default=default.target, help="sm_80, sm_90, gfx942, ...")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ssg_kernels", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info | demo")
    facts = commands.add_parser(
        "info",
        help="versions, and which backends are usable here; or how a step is planned",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _plan_arguments(facts)
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
        sizes = arguments.pop("plan")
        if sizes is None:
            print(info.report())
            return 0
        try:
            print(info.plan_report(info.PlanRequest(*sizes, **arguments)))
        except ValueError as reason:
            print(f"info --plan: {reason}", file=sys.stderr)
            return 2
        return 0
    return demo.run(demo.Options(**arguments))


if __name__ == "__main__":
    sys.exit(main())
