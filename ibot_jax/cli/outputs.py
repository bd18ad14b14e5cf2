"""Flags of commands that write models."""

import argparse


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds --overwrite, --license and --report."""
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument(
        "--license", default="", metavar="SPDX", help="of the weights, for the model card"
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FILE",
        help="a TASK.json of python -m ibot_jax.evaluate, for the model card; may be repeated",
    )
