"""The command `fcn-convert`: exit statuses for everything that can happen.

0: converted and verified. 1: a check failed. 2: the input, the spec or the usage is unusable.
70: a bug of ours, with its traceback. 128 + n: interrupted by signal n.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from fcn_convert.cli import app, say
from fcn_convert.errors import FcnConvertError

UNUSABLE, BUG = 2, 70
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(BaseException):
    """Raised where a signal arrives, so that drafts are removed on the way out."""


def main() -> NoReturn:
    """Run the command and exit."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _interrupt)
    try:
        app()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else UNUSABLE
    except FcnConvertError as error:
        say(f"error: {error}")
        status = UNUSABLE
    except _Interrupted as interrupted:
        status = 128 + interrupted.args[0]
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001 - the last resort: a bug keeps its traceback
        traceback.print_exc()
        status = BUG
    _leave(status)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Interrupted(number)


def _leave(status: int) -> NoReturn:
    """Exit; a reader of our output who has gone is no error to report at shutdown."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 128 + signal.SIGPIPE
    sys.exit(status)


if __name__ == "__main__":
    main()
