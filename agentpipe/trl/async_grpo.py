"""AsyncGrpoRollouts: rollouts of agents for TRL's ``AsyncGRPOTrainer`` during training."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Full, Queue
from statistics import pstdev
from typing import TYPE_CHECKING, Any, Self

from agentpipe.core.arguments import whole
from agentpipe.core.outside import json_text
from agentpipe.core.run_names import prefix_of
from agentpipe.errors import AgentpipeError, ResultTimeout
from agentpipe.rollouts import samples
from agentpipe.settings import Settings
from agentpipe.training.loop_run import followed_collection
from agentpipe.training.rollout_group import check_kind
from agentpipe.training.rollout_loop import Rollouts
from agentpipe.trl.buffer import Buffer
from agentpipe.trl.checkpoint import load_state, save_state

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.core.result import Result
    from agentpipe.rollouts import Sample
    from agentpipe.training.policy import Policy
    from agentpipe.training.rollout_group import Kind, RolloutGroup

# Longest time in seconds that the reading thread delays ``state_dict`` or ``stop``.
_LOOK_S = 0.2


class AsyncGrpoRollouts:
    """A ``rollout_worker`` for TRL's ``AsyncGRPOTrainer``; use it in the trainer's main process.

    ::

        with AsyncGrpoRollouts.open("collection.yaml", prompts, n=8, batch=32) as rollouts:
            trainer = AsyncGRPOTrainer(model, args=args, rollout_worker=rollouts, ...)
            trainer.weight_transfer = rollouts.transfer(trainer.weight_transfer)
            trainer.add_callback(rollouts.callback())
            trainer.train()

    Each version of the trainer is published to the policy that the agents follow. A group's rows
    carry the version that sampled them, and advantages computed over the members with a reward.

    Attributes:
        rollout_buffer: The queue from which the trainer takes rows.
        metrics_queue: The queue from which it takes metrics: groups by fate.
        policy: The collection's policy.
    """

    def __init__(
        self, rollouts: Rollouts, policy: Policy, *, name: str, queue_size: int, kind: Kind
    ) -> None:
        """Use this loop, which ``close`` closes, and its policy."""
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
            prompts: As for ``Rollouts``; they can be endless.
            n: Samples per group.
            batch: Groups per policy version: this many are sent at once.
            name: Name of this experiment, as for ``Rollouts``.
            settings: Where broker and sink are; default: from the environment.
            queue_size: How many rows can wait for the trainer.
            kind: Kind of advantages, see ``RolloutGroup.advantages``.
            options: ``spares``, ``repairs``, ``need``, ``vary_seed``, ``keep`` and
                ``max_staleness`` of ``Rollouts.open``.

        Raises:
            ConfigError: The collection follows no policy or requires no ids, or a number is
                invalid.
            Unreachable: A server does not answer.
        """
        whole("queue_size", queue_size, 1)
        check_kind(kind)
        settings = Settings.given(settings)
        only = followed_collection(collection, settings)
        name = name or only.name
        options = {**options, "name": name, "settings": settings, "timeout_s": _LOOK_S}
        rollouts = Rollouts.open(collection, prompts, n=n, batch=batch, **options)
        assert rollouts.policy is not None  # ``followed_collection`` requires one.
        return cls(rollouts, rollouts.policy, name=name, queue_size=queue_size, kind=kind)

    # Called by the trainer.

    def start(self) -> None:
        """Start sending prompts and reading groups; does nothing if that has started."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stopped.clear()
        self._error = None
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="agentpipe-rollouts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sending and reading; running groups continue, and a later start reads them."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def update_model_version(self, model_version: int) -> None:
        """Publish that the servers have the trainer's weights of this version, and resume."""
        self.rollout_buffer.version = model_version
        self.policy.publish(self._base + model_version)
        self.policy.resume()

    def check_health(self, stale_after_s: float) -> None:
        """Raise the error that ended the reading thread, or ResultTimeout if it is silent."""
        if self._error is not None:
            raise self._error
        silent_s = time.monotonic() - self._beat_at
        if silent_s > stale_after_s:
            raise ResultTimeout(f"nothing could be sent or read for {silent_s:.0f} s")

    def transfer(self, inner: Any) -> PausedTransfer | None:
        """Wrap the trainer's ``weight_transfer`` so that the policy is paused meanwhile.

        None stays None, for a trainer that only sends adapters.
        """
        return None if inner is None else PausedTransfer(inner, self.policy)

    def callback(self) -> Any:
        """A ``TrainerCallback`` that saves the state with each checkpoint; see ``load``."""
        from transformers import TrainerCallback

        rollouts = self

        class SavesRollouts(TrainerCallback):  # type: ignore[misc,unused-ignore]  # TRL is not always installed
            """Also counts the trained rows."""

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
        """What was sent and trained on; JSON."""
        with self._reading:
            return self._rollouts.state_dict(unused=self.rollout_buffer.unused)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a state; call before the trainer begins.

        Raises:
            ConfigError: It is not a state of this experiment.
        """
        self._rollouts.load_state_dict(state)
        # The trainer first sends the weights of the state, as version 1.
        self._base = state["policy_version"] - 1

    def load(self, checkpoint: str | os.PathLike[str]) -> None:
        """Load the state that ``callback`` saved in a checkpoint's folder.

        Raises:
            ConfigError: The folder has no state, or a state of another experiment.
        """
        self.load_state_dict(load_state(Path(checkpoint)))

    # The reading thread.

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
        named = {f"rewards/{name}": reward for name, reward in result.rewards.items()}
        return RolloutSample(
            prompt=[{"role": "user", "content": asked}],
            completion=[{"role": "assistant", "content": json_text(answer)}],
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
        """The oldest version that sampled it; if unknown, the version at the trainer's start."""
        known = [each for each in sample.versions if isinstance(each, int)]
        return min(known, default=self._base)

    def _number(self, group: RolloutGroup) -> int:
        """The position of the group's prompt."""
        found = re.match(r"\d+", group.group_id.removeprefix(self._prefix))
        assert found is not None
        return int(found[0])

    def _give_back(self) -> None:
        """A group became too old in the buffer and trains nothing: let another begin."""
        self.policy.give_back(1, unused="stale")
        self.metrics_queue.put({"agentpipe/old_total": 1.0})

    def close(self) -> None:
        """Stop, and close its connections; groups that are out keep running."""
        self.stop()
        self._rollouts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PausedTransfer:
    """Wraps a TRL weight transfer so that no agent's request is under way during it.

    ``AsyncGrpoRollouts.update_model_version``, which the trainer calls next, ends the pause.
    """

    def __init__(self, inner: Any, policy: Policy) -> None:
        self._inner, self._policy = inner, policy
        self.init_weight_transfer = inner.init_weight_transfer
        self.send_weights, self.resume = inner.send_weights, inner.resume
        self.destroy = inner.destroy

    def pause(self) -> None:
        """Hold new requests, then pause the servers' sampling."""
        self._policy.pause()
        self._inner.pause()


def _rows_of_a_step(args: Any) -> float:
    """How many rows a step trained on; unlimited with a token budget, as only TRL knows."""
    if (args.token_budget or 0) > 0:
        return float("inf")
    return float(
        args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    )
