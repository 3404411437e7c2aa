"""Property tests are the same at every run; HYPOTHESIS_MAX_EXAMPLES=1000 makes each try more cases."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "mtcli",
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", 25)),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mtcli")
