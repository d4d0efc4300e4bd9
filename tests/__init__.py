"""Tests: a folder for each room, named for behaviour."""

import os

os.umask(0o077)  # a file of keys or tokens that others can read is refused
