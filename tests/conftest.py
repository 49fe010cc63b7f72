"""What all tests need of the process that they run in."""

import signal

# A shell ignores Ctrl-C for what it starts in the background, and commands that tests start would
# inherit that, and rightly go on where the tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
