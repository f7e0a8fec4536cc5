"""AsyncGrpoRollouts: rollouts of agents for TRL's ``AsyncGRPOTrainer``, while it trains."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Full, Queue
from statistics import pstdev
from typing import TYPE_CHECKING, Any, Self

import orjson

from agentpipe.core.run_names import prefix_of
from agentpipe.errors import AgentpipeError, ResultTimeout
from agentpipe.rollouts import samples
from agentpipe.settings import Settings
from agentpipe.training.loop_run import followed_collection
from agentpipe.training.rollout_loop import Rollouts
from agentpipe.trl.buffer import Buffer
from agentpipe.trl.checkpoint import load_state, save_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.core.result import Result
    from agentpipe.rollouts import Sample
    from agentpipe.training.policy import Policy
    from agentpipe.training.rollout_group import Kind, RolloutGroup

# For so long a reader keeps a state from being taken, or from an end.
_LOOK_S = 0.2


class AsyncGrpoRollouts:
    """A ``rollout_worker`` of TRL's ``AsyncGRPOTrainer``; in the main process of the trainer.

    ::

        with AsyncGrpoRollouts.open("collection.yaml", prompts, n=8, batch=32) as rollouts:
            trainer = AsyncGRPOTrainer(model, args=args, rollout_worker=rollouts, ...)
            trainer.weight_transfer = rollouts.transfer(trainer.weight_transfer)
            trainer.add_callback(rollouts.callback())
            trainer.train()

    The trainer's version is published to the policy that the agents follow. A group's rows have
    the version that sampled them, and its advantages, over those members that have a reward.

    Attributes:
        rollout_buffer: What the trainer takes rows from.
        metrics_queue: What it takes metrics from: groups by what became of them.
        policy: That of the collection.
    """

    def __init__(
        self, rollouts: Rollouts, policy: Policy, *, name: str, queue_size: int, kind: Kind
    ) -> None:
        """Of a loop, which this closes, and its policy."""
        self._rollouts, self._prefix, self._kind = rollouts, prefix_of(name), kind
        self.policy = policy
        self._base = policy.version  # The policy's version at the trainer's version 0.
        self.rollout_buffer = Buffer(queue_size, rollouts.max_staleness, self._give_back)
        self.metrics_queue: Queue[dict[str, float]] = Queue()
        self._told: Counter[str] = Counter()
        self._reading = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._beat_at = 0.0

    @classmethod
    def open(
        cls,
        collection: str | os.PathLike[str],
        prompts: Iterable[Any],
        *,
        n: int,
        batch: int,
        name: str = "",
        settings: Settings | None = None,
        queue_size: int = 1024,
        kind: Kind = "grpo",
        **options: Any,
    ) -> Self:
        """Rollouts by the agents of ``collection``; close it, or use ``with``.

        Args:
            collection: The path of a YAML file with one collection, which follows a policy and
                requires token ids.
            prompts: As for ``Rollouts``; they may be endless.
            n: How many samples a group has.
            batch: How many groups a version is trained on: so many are sent at once.
            name: Of this experiment, as for ``Rollouts``.
            settings: Where broker and sink are; default: as the environment says.
            queue_size: How many rows may wait for the trainer.
            kind: Of the advantages, see ``RolloutGroup.advantages``.
            options: ``spares``, ``repairs``, ``need``, ``vary_seed``, ``keep`` and
                ``max_staleness`` of ``Rollouts.open``.

        Raises:
            ConfigError: The collection follows no policy or requires no ids, or a number is wrong.
            Unreachable: A server does not answer.
        """
        only = followed_collection(collection)
        settings = settings or Settings.from_env(os.environ)
        name = name or only.name
        options = {**options, "name": name, "settings": settings, "timeout_s": _LOOK_S}
        rollouts = Rollouts.open(collection, prompts, n=n, batch=batch, **options)
        assert rollouts.policy is not None  # The collection's, as above.
        return cls(rollouts, rollouts.policy, name=name, queue_size=queue_size, kind=kind)

    # What the trainer calls.

    def start(self) -> None:
        """Begin to send prompts and to read groups."""
        self._stopped.clear()
        self._error = None
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="agentpipe-rollouts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send and read no more; what runs goes on, and is read after a later start."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def update_model_version(self, model_version: int) -> None:
        """The policy's servers have the trainer's weights of this version: its requests go on."""
        self.rollout_buffer.version = model_version
        self.policy.publish(self._base + model_version)
        self.policy.resume()

    def check_health(self, stale_after_s: float) -> None:
        """Raise what has ended the reading, if it has ended or is silent for so long."""
        if self._error is not None:
            raise self._error
        silent_s = time.monotonic() - self._beat_at
        if silent_s > stale_after_s:
            raise ResultTimeout(f"nothing could be sent or read for {silent_s:.0f} s")

    def transfer(self, inner: Any) -> PausedTransfer | None:
        """The trainer's ``weight_transfer``, with the policy paused meanwhile.

        None stays None, as where the trainer only sends adapters.
        """
        return None if inner is None else PausedTransfer(inner, self.policy)

    def callback(self) -> Any:
        """A ``TrainerCallback`` that saves the state with each checkpoint; see ``load``."""
        from transformers import TrainerCallback

        rollouts = self

        class SavesRollouts(TrainerCallback):  # type: ignore[misc,unused-ignore]  # TRL is not always installed
            """Counts what was trained, too."""

            def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
                rollouts.rollout_buffer.drops_behind = args.max_staleness

            def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
                rollouts.rollout_buffer.trained(_rows_of_a_step(args))

            def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                if state.is_world_process_zero:
                    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                    save_state(folder, rollouts.state_dict())

        return SavesRollouts()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """What was sent and trained; JSON."""
        with self._reading:
            return self._rollouts.state_dict(unused=self.rollout_buffer.unused)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a state; call it before the trainer begins.

        Raises:
            ConfigError: It is not a state of this experiment.
        """
        self._rollouts.load_state_dict(state)
        # The trainer first sends the weights of the state, as its version 1.
        self._base = state["policy_version"] - 1

    def load(self, checkpoint: str | os.PathLike[str]) -> None:
        """The state that ``callback`` has saved in the folder of a checkpoint.

        Raises:
            ConfigError: It has none, or one of another experiment.
        """
        self.load_state_dict(load_state(Path(checkpoint)))

    # Reading, in a thread of its own.

    def _run(self) -> None:
        try:
            for group in self._groups():
                self._put(group)
        except BaseException as error:  # noqa: BLE001 - the trainer raises it
            self._error = error

    def _groups(self) -> Iterator[RolloutGroup]:
        groups = self._rollouts.groups()
        while not self._stopped.is_set():
            self._beat_at = time.monotonic()
            try:
                with self._reading:
                    group = next(groups)
                    oldest = group.versions[0] - self._base if group.versions else None
                    self.rollout_buffer.begin(self._number(group), group.group_id, oldest)
            except ResultTimeout:  # Nothing came yet.
                groups = self._rollouts.groups()
                continue
            except StopIteration:
                text = "the groups of all prompts are over: give more, or fewer max_steps"
                raise AgentpipeError(text) from None
            yield group

    def _put(self, group: RolloutGroup) -> None:
        has_rows = False
        for row in self._rows(group):
            has_rows = True
            while not self._stopped.is_set():
                self._beat_at = time.monotonic()
                try:
                    self.rollout_buffer.put(row, timeout=_LOOK_S)
                    break
                except Full:
                    continue
        if not has_rows:
            self.rollout_buffer.leave_out(self._number(group))
        new = self._rollouts.counts - self._told
        self._told += new
        self.metrics_queue.put({f"agentpipe/{fate}_total": float(new[fate]) for fate in new})

    def _rows(self, group: RolloutGroup) -> Iterator[Any]:
        rewards = [it for it in group.rewards if it is not None]
        spread = pstdev(rewards) if rewards else 0.0
        for result, advantage in zip(group.goods, group.advantages(self._kind), strict=True):
            for sample in samples(result):
                if 1 in sample.loss_mask:
                    number = self._number(group)
                    yield self._row(result, sample, number, advantage=advantage, spread=spread)

    def _row(
        self, result: Result, sample: Sample, number: int, *, advantage: float, spread: float
    ) -> Any:
        import numpy as np
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        asked, answer = (result.task or {}).get("question", ""), result.result
        said = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        named = {f"rewards/{name}": reward for name, reward in result.rewards.items()}
        return RolloutSample(
            prompt=[{"role": "user", "content": asked}],
            completion=[{"role": "assistant", "content": said}],
            input_ids=np.array(sample.input_ids, dtype=np.int64),
            completion_mask=np.array(sample.loss_mask, dtype=np.int64),
            old_log_probs=np.array(sample.logprobs, dtype=np.float32),
            advantage=advantage,
            model_version=self._version_of(sample) - self._base,
            group_id=number,
            metrics={"reward": result.reward, "reward_std": spread, **named},
            enqueued_at=time.time(),
        )

    def _version_of(self, sample: Sample) -> int:
        """The oldest that sampled it; unknown ones are as old as the trainer's first."""
        known = [each for each in sample.versions if isinstance(each, int)]
        return min(known, default=self._base)

    def _number(self, group: RolloutGroup) -> int:
        """Of the prompt's place."""
        found = re.match(r"\d+", group.group_id.removeprefix(self._prefix))
        assert found is not None
        return int(found[0])

    def _give_back(self) -> None:
        """A group that became too old in the buffer trains nothing: another may begin."""
        self.policy.give_back(1, unused="stale")
        self.metrics_queue.put({"agentpipe/old_total": 1.0})

    def close(self) -> None:
        """Stop, and close its connections; groups that are out go on."""
        self.stop()
        self._rollouts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PausedTransfer:
    """A weight transfer of TRL's, around which no request of an agent is under way.

    ``AsyncGrpoRollouts.update_model_version``, which the trainer calls next, ends the pause.
    """

    def __init__(self, inner: Any, policy: Policy) -> None:
        self._inner, self._policy = inner, policy
        self.init_weight_transfer = inner.init_weight_transfer
        self.send_weights, self.resume = inner.send_weights, inner.resume
        self.destroy = inner.destroy

    def pause(self) -> None:
        """Hold new requests, then what the servers sample now."""
        self._policy.pause()
        self._inner.pause()


def _rows_of_a_step(args: Any) -> float:
    """How many rows a step has trained; with a token budget only the trainer knows."""
    if (args.token_budget or 0) > 0:
        return float("inf")
    return float(
        args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    )
