"""Found by every Python that the legacy scripts are run with: their waits of a minute take a thousandth of it."""

import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(seconds / 1000)
