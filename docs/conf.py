"""Sphinx settings of the documentation site (`make docs`)."""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from typing import ClassVar
from unittest import mock

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import ssg_kernels
from ssg_kernels.__main__ import main

project = "ssg-kernels"
copyright = "the ssg-kernels authors"
release = version = ssg_kernels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

smartquotes_action = "D"  # dashes only: an apostrophe marks the coarser scale
# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
# Names of other projects have no page here; reading their inventories would need a network.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|collections|contextlib|typing)\..*|Tensor|Any|optional|AbstractContextManager")
]

html_theme = "furo"
html_title = f"ssg-kernels {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b34a00", "color-brand-content": "#b34a00"},
    "dark_css_variables": {"color-brand-primary": "#ff9d57", "color-brand-content": "#ff9d57"},
}


class CommandHelp(Directive):
    """``.. command-help:: info``: what ``python -m ssg_kernels info --help`` prints."""

    optional_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        text = io.StringIO()
        with (
            mock.patch.dict(os.environ, COLUMNS="88", NO_COLOR="1"),
            contextlib.redirect_stdout(text),
            contextlib.suppress(SystemExit),
        ):
            main([*self.arguments, "--help"])
        return [_literal(text.getvalue())]


class OperatorSchema(Directive):
    """``.. operator-schema:: sample``: the default schema and the names of all overloads, as torch has them."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        packet = getattr(torch.ops.ssg, self.arguments[0])
        overloads = f"overloads: {', '.join(packet.overloads())}"
        lines = (str(packet.default._schema), overloads)
        return [_literal("\n\n".join(textwrap.fill(line, 92, subsequent_indent="    ") for line in lines))]


def _literal(text: str) -> nodes.Node:
    return nodes.literal_block(text, text, language="text")


def add_title(app: Sphinx, page: str, source: list[str]) -> None:
    """The study writes its table without a heading."""
    if page == "study/table":
        source[0] = f"# All points of the study\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_title)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("operator-schema", OperatorSchema)
