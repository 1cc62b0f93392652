"""`main.py PEER COMMAND…`: procrastinate wants its app in a module that is imported, not the one that is run."""

import importlib
import sys

import common

common.run(importlib.import_module(f"peer_{sys.argv.pop(1)}").PEER)
