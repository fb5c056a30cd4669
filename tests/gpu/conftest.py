from tests.benchmarks.conftest import BENCHMARKS  # noqa: F401  (puts the benchmarks on the path)
from tests.pipeline.conftest import world  # noqa: F401
