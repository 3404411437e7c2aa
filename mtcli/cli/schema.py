"""``mtcli schema``."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON Schema of configs, for completion and checking in editors."""
    from .. import config as configs

    print(json.dumps(configs.schema(), indent=2))
