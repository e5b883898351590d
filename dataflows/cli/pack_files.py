"""Options that name pack files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FeaturesFile = Annotated[
    Path | None,
    typer.Option(
        "--features", envvar="ALPHA_FEATURE_PACK", help="Feature pack; default: the shipped one."
    ),
]
DetectorsFile = Annotated[
    Path | None,
    typer.Option(
        "--detectors", envvar="ALPHA_DETECTOR_PACK", help="Detector pack; default: the shipped one."
    ),
]
UniverseFile = Annotated[
    Path | None,
    typer.Option(
        "--universe", envvar="ALPHA_UNIVERSE", help="Universe policy; default: the shipped one."
    ),
]
