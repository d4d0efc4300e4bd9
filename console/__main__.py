"""The command `everlog`, also as `python -m everlog.console`. `--version` is answered before anything is
imported."""

import signal
import sys

from everlog.store import VERSION


def main() -> None:
    """Run the command line, and exit."""
    if sys.argv[1:] == ["--version"]:
        try:
            sys.stdout.write(f"everlog {VERSION}\n")
            sys.stdout.flush()
        except (AttributeError, OSError, ValueError):
            pass  # standard output is closed or full: ignored, as in any other command
        else:
            return
    # SIGTERM until it is handled, SIGHUP until the command is known.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    try:
        from everlog.console.cli import main as commands

        commands.main()
    except KeyboardInterrupt:  # during the imports, which take most of a short command's time, or again
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python would restore the default, which kills
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
