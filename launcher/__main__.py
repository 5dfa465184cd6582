"""``python -m launcher run|stop|clean|status|tool``."""

import signal
import sys

# Until a command installs handlers of its own there is nothing to clean up: Ctrl-C ends it without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from launcher.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
