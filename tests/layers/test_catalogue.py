"""Every layer, and every parameter of a 2-layer model, against finite differences."""

import pytest

from minillm.checks.cases import CATALOGUE, run
from minillm.checks.gradcheck import TOLERANCE, Report


@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_agree_with_finite_differences(name):
    reports = [result for _, result in run([name])]
    assert reports
    for report in reports:
        assert isinstance(report, Report), str(report)
        assert report.worst.error <= TOLERANCE == 1e-6
