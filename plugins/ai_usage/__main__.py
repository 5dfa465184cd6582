"""The command line: ``bin/ai-usage --help``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from ai_usage import commands
from ai_usage.core.errors import UsageError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all is well, 1 when the answer is bad, 2 when the command could not be carried out."""
    options = commands.parser().parse_args(arguments)
    # Without this, Airflow outside of a task knows only connections from the environment, not those of its own database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    answers = sys.stdout
    try:
        with redirect_stdout(sys.stderr):  # Airflow logs to standard output, which belongs to the answers
            code = commands.run(options, answers)
        answers.flush()
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return commands.IMPOSSIBLE
    except BrokenPipeError:
        # Whoever read the answers has had enough. Python would complain at its own end otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.GOOD
    except KeyboardInterrupt:
        sys.stderr.write("Ended. Nothing is stored by halves; the next run picks up what is missing.\n")
        return 130
    except Exception:
        log.exception("This is a fault of the project; please report it.")
        return commands.IMPOSSIBLE
    return code


if __name__ == "__main__":
    sys.exit(main())
