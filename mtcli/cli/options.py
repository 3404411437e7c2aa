"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

ConfigOption = Annotated[Path, Option("--config", "-c", help="YAML file: what to train, and how.")]
SetOption = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change one value of the config; repeatable."),
]
NewRunOption = Annotated[
    Path | None, Option(help="Directory of the run.  [default: runs/ and the config's name]")
]
RunOption = Annotated[Path | None, Option(help="Directory of a run.  [default: the last trained]")]
RunsOption = Annotated[
    list[Path] | None,
    Option(help="Directory of a run; repeated: an ensemble.  [default: the last trained]"),
]
CheckpointOption = Annotated[
    str, Option("--checkpoint", metavar="best|last|N", help="Which of a run; N is an update.")
]
OutputOption = Annotated[Path | None, Option("--output", "-o", help="File instead of stdout.")]
DeviceOption = Annotated[
    str, Option(metavar="auto|cpu|cuda|cuda:N|mps", help="auto takes a CUDA GPU if there is one.")
]
ThreadsOption = Annotated[
    int | None, Option(min=1, max=512, help="CPU cores.  [default: usually all]")
]
BeamOption = Annotated[int | None, Option(min=1, help="Hypotheses kept at each step; 1 is greedy.")]
JSONOption = Annotated[bool, Option("--json", help="Print JSON.")]
