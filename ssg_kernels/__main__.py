"""`python -m ssg_kernels info`, `... selftest`, `... demo`, `... evaluate` and `... tour`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssg_kernels import info, tour
from ssg_kernels._names import DTYPES, INTERPOLATIONS, PRIORS
from ssg_kernels.evaluate import arguments as evaluation


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


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="the same facts for programs")
    forms.add_argument(
        "--cmake-dir", action="store_true", help="the folder for find_package(ssg_kernels CONFIG) in C++"
    )
    forms.add_argument(
        "--plan",
        nargs=2,
        type=_grid,
        metavar=("SIZE", "PREV_SIZE"),
        help="a step, such as 16x16 13x13: how each backend would compute it, and the time on a GPU by counting; "
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


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--beta", type=float, default=0.8, help="strength of the guidance, the same at every scale"
    )
    parser.add_argument("--prior", choices=PRIORS, default="dse", help="what stands for the coarser scale")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random numbers that tokens are drawn with"
    )
    parser.add_argument(
        "--classes", default="", help="names or numbers, with commas between them; empty: all"
    )
    parser.add_argument("--out", type=Path, default=Path("ssg-demo"), help="folder for the pictures")


def _tour_arguments(parser: argparse.ArgumentParser) -> None:
    default = tour.Options()
    parser.add_argument(
        "--beta", type=float, default=default.beta, help="strength at the first scale, decaying linearly"
    )
    parser.add_argument(
        "--prior", choices=PRIORS, default=default.prior, help="what stands for the coarser scale"
    )
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default=default.interpolation, help="of the prior"
    )
    parser.add_argument("--rescale", action="store_true", help="keep the amplitude of the coarse spectrum")
    parser.add_argument("--batch", type=_at_least(1), default=default.batch, help="images at once")
    parser.add_argument(
        "--vocabulary", type=_at_least(1), default=default.vocabulary, help="tokens to choose from"
    )
    parser.add_argument("--repeats", type=_at_least(1), default=default.repeats, help="timed generations")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the random logits")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ssg_kernels", allow_abbrev=False)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="info | selftest | demo | evaluate | tour"
    )
    facts = commands.add_parser(
        "info",
        help="versions, and which backends are usable here; or how a step is planned",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _info_arguments(facts)
    commands.add_parser(
        "selftest",
        help="compares every usable backend with the reference, in less than a minute",
        allow_abbrev=False,
    )
    pictures = commands.add_parser(
        "demo",
        help="images of the embedded model, with and without SSG and cfg",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _demo_arguments(pictures)
    compared = commands.add_parser(
        "evaluate",
        help="metrics of a checkpoint with and without SSG, in one process or under torchrun",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    evaluation.add(compared)
    timed = commands.add_parser(
        "tour",
        help="SSG over VAR's ten scales, timed beside plain PyTorch",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _tour_arguments(timed)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = vars(_arguments(argv))
    command = _COMMANDS[arguments.pop("command")]
    try:
        status = command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does. Python must not try to write the rest when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _STATUS_OF_A_CLOSED_PIPE
    return status


def _info(arguments: dict[str, Any]) -> int:
    sizes, as_json, cmake_dir = (arguments.pop(name) for name in ("plan", "json", "cmake_dir"))
    if cmake_dir:
        folder = info.cmake_folder()
        print(
            folder or "info --cmake-dir: the pure-Python package has no library",
            file=None if folder else sys.stderr,
        )
        return 0 if folder else 2
    if sizes is None:
        print(json.dumps(info.facts(), indent=2) if as_json else info.report())
        return 0
    try:
        print(info.plan_report(info.PlanRequest(*sizes, **arguments)))
    except ValueError as reason:
        print(f"info --plan: {reason}", file=sys.stderr)
        return 2
    return 0


def _selftest(_: dict[str, Any]) -> int:
    from ssg_kernels import selftest

    return selftest.run()


def _tour(arguments: dict[str, Any]) -> int:
    return tour.run(tour.Options(**arguments))


def _demo(arguments: dict[str, Any]) -> int:
    try:
        from ssg_kernels.demo import show, weights
    except ImportError as missing:
        print(f"demo: {missing}; pip install 'ssg-kernels[demo]' brings what it needs", file=sys.stderr)
        return 2
    try:
        if not (weights.SHIPPED / "transformer.safetensors").exists():
            print("demo: the model has no weights yet (make train); the tour instead", file=sys.stderr)
            return tour.run(tour.Options(arguments["beta"], arguments["prior"], seed=arguments["seed"]))
        return show.run(show.Options(**arguments))
    except ValueError as reason:
        print(f"demo: {reason}", file=sys.stderr)
        return 2


def _evaluate(arguments: dict[str, Any]) -> int:
    from ssg_kernels.evaluate import command

    return command.main(arguments, sys.argv)


_COMMANDS = {
    "demo": _demo,
    "evaluate": _evaluate,
    "info": _info,
    "selftest": _selftest,
    "tour": _tour,
}
_STATUS_OF_A_CLOSED_PIPE = 128 + 13  # as a shell reports a process that SIGPIPE ended


if __name__ == "__main__":
    sys.exit(main())
