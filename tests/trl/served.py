"""For TRL's trainers: a tiny model, an agent, and a server that remembers what it sampled."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.asking_twice import files
from tests.llm_stub import Reply, TokenIds, fail, say

if TYPE_CHECKING:
    from tests.llm_stub import Request

VOCABULARY, PAD, END = 64, 0, 1
# The question, the sample index and the task's id.
FILES = files("{task.question} {task.sample_index} {task.task_id}")


@dataclass
class Engine:
    """Samples randomly, and remembers the samples of each task.

    Attributes:
        fails: By question, when its service fails: ``all`` samples; or the first sample ``always``,
            or ``once``, which spares its repair.
        turns: By task: the prompt and sampled ids of each turn.
    """

    fails: dict[str, str] = field(default_factory=dict)
    turns: dict[str, list[TokenIds]] = field(default_factory=dict)
    on_request: Any = None
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        if self.on_request:
            self.on_request(request)
        question, index, task_id = request.question.split()
        how = self.fails.get(question)
        if how == "all":
            return fail(500)
        if index == "0" and (how == "always" or (how == "once" and "~" not in task_id)):
            return fail(500)
        with self.lock:
            is_first = len(request.body["messages"]) == 1
            known = [] if is_first else self.turns[task_id]
            held = [] if is_first else [*known[0].prompt, *known[0].sampled]
            said = 2 + int(index) + 4 * (self._some(1)[0] % 8)  # Odd if its index is.
            ids = TokenIds([*held, *self._some(3)], [said, *self._some(4), END])
            self.turns[task_id] = [*known, ids]
        return say("yes" if ids.sampled[0] % 2 else "no", ids=ids)

    def _some(self, number: int) -> list[int]:
        some: list[int] = torch.randint(2, VOCABULARY, (number,), generator=self.random).tolist()
        return some

    def row(self, task_id: str) -> tuple[list[int], list[int], list[int], list[float], float]:
        """A task's prompt, completion, mask, log-probabilities and reward, as served."""
        one, two = self.turns[task_id]
        between = two.prompt[len(one.prompt) + len(one.sampled) :]
        completion = [*one.sampled, *between, *two.sampled]
        mask = [1] * len(one.sampled) + [0] * len(between) + [1] * len(two.sampled)
        ids = zip(completion, mask, strict=True)
        logprobs = [one.logprob(each) if sampled else 0.0 for each, sampled in ids]
        return one.prompt, completion, mask, logprobs, float(two.sampled[0] % 2)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(VOCABULARY)}
    own = Tokenizer(WordLevel(words, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="w0", eos_token="w1")


def model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": END}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=PAD, **sizes, **heads))
