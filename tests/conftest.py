"""What all tests need of the process that they run in."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# No test asserts a time: this machine may be a busy one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell ignores Ctrl-C for what it starts in the background, and commands that tests start would
# inherit that, and rightly go on where the tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On networks this small, and beside other tests, a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
