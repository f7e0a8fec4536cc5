"""Sends tasks as the peer's users do; runs in the peer's own environment.

Arguments: the collection file, its name, the number of tasks, and the pause between them in
seconds. Each task's metadata contain when it was sent.
"""

import sys
import time

from mcpuniverse.pipeline.launcher import AgentPipeline

path, name, number, pause_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
pipeline = AgentPipeline(config_path=path, max_queue_size=1_000_000)
task = {"question": "What is it?", "evaluators": [{"func": "raw", "op": "contain", "value": "42"}]}
for _ in range(number):
    assert pipeline.send_task(name, task, metadata={"sent": time.time()})
    time.sleep(pause_s)
