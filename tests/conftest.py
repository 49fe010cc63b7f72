"""What all tests need of the process that they run in."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from threads import torch_threads

# No test asserts a time: this machine may be a busy one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tables are as narrow as it says, also where they do not go to a terminal.
os.environ.pop("COLUMNS", None)

# A shell ignores Ctrl-C for what it starts in the background, and nohup the end of a terminal;
# commands that tests start would inherit that, and rightly go on where the tests interrupt them.
for number, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On networks this small, and beside other tests, a second thread only waits."""
    with torch_threads(1):
        yield
