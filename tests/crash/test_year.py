"""A month of settings, receivers and workers in trouble leaves nothing behind (`make year`: a year
of them).
"""

import pytest

from tests.simulator.year import live


@pytest.mark.timeout(1200)
def test_a_month_of_troubles_leaves_nothing_behind() -> None:
    live(months=1)
