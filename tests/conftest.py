"""What every test may rely on."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and everything they start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)
