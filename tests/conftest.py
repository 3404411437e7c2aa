"""Property tests are the same at every run; HYPOTHESIS_MAX_EXAMPLES=1000 makes each try more cases."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny models are fastest so

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from mtcli.support.errors import warn_once  # noqa: E402

settings.register_profile(
    "mtcli",
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", 25)),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mtcli")


@pytest.fixture(autouse=True)
def warnings_come_again() -> None:
    """What is said once in a process is said once in a test."""
    warn_once.cache_clear()
