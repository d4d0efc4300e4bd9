"""What all tests share: how Hypothesis looks for examples."""

import os
import signal

from hypothesis import settings

# No deadlines: a machine that is shared is not a reason to fail.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Started in the background of a shell, a process ignores interrupts, and so do those that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
