"""What every test may rely on."""

import os
import signal

# Before anything imports huggingface_hub: no test asks the network for anything, nor reports to it.
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell starts background jobs with Ctrl-C ignored, and everything they start inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)
