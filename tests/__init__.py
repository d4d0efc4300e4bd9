"""Tests: a folder for each room, named for behaviour."""

import os
from pathlib import Path

os.umask(0o077)  # a file of keys or tokens that others can read is refused
(Path(__file__).parent / "rpc" / "key.pem").chmod(0o600)  # a checkout leaves it open
