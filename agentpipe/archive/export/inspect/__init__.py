"""An ``.eval`` log of inspect_ai: zip and JSON, written without inspect_ai's packages.

This is format version 2: a zip with ``_journal/start.json``, ``samples/{id}_epoch_{n}.json``,
``summaries.json`` and ``header.json`` (``inspect_ai/log/_recorders/eval.py`` and ``log/_log.py`` of
0.3.285). ``make test-inspect`` reads logs with that version.
"""
