"""Parts of SciPy that wait for their first use work as if they had been imported."""

import subprocess
import sys

from tests.conftest import ROOT

USES = """
import sys
from cl_lightning.common.deferred import defer_scipy
defer_scipy()
import scipy.signal
from scipy.optimize import linear_sum_assignment
assert "scipy.sparse" not in sys.modules and "scipy.fft" not in sys.modules
assert linear_sum_assignment([[1, 0], [0, 1]])[1].tolist() == [1, 0]
assert scipy.signal.hamming(3).tolist() == scipy.signal.windows.hamming(3).tolist()
assert scipy.signal.convolve([1, 2], [3, 4]).tolist() == [3, 10, 8]
from scipy.optimize import minimize
assert abs(minimize(lambda x: (x - 3) ** 2, 0.0).x[0] - 3) < 1e-6
import scipy.optimize
assert scipy.optimize.linear_sum_assignment is not linear_sum_assignment, "its own by now"
"""


def test_deferred_modules_are_imported_on_their_first_use() -> None:
    done = subprocess.run([sys.executable, "-c", USES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
