"""What tests of several modules ask for."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Sums are the same bit for bit only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
