from tests.benchmarks.conftest import BENCHMARKS  # noqa: F401  (puts the benchmarks on the path)
from tests.run.conftest import world  # noqa: F401
