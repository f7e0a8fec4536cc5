"""A program that holds the embedded store's lock until it is continued."""

# Runs `send`, and stops itself in the transaction that admits the tasks.
STOPPED_SENDER = """
import os, signal, sys
from agentpipe.brokers import sqlite
from agentpipe.__main__ import main
admit = sqlite.admit
def stop_and_admit(*args):
    os.kill(os.getpid(), signal.SIGSTOP)
    admit(*args)
sqlite.admit = stop_and_admit
sys.argv[1:] = ["send", "toys", "echo held", "--json"]
sys.exit(main())
"""
