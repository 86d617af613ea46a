"""A model for lm-evaluation-harness. This file can be imported only where lm_eval is; `run_harness` imports it by itself."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from trm_jax.checkpoints import SavedModel
from trm_jax.data import end_token, render_chats
from trm_jax.decoding import ASKED_EVERY, GREEDY, Sampling, decode_config, generate_each
from trm_jax.evaluation.likelihood import score_continuations
from trm_jax.evaluation.records import EvaluationError
from trm_jax.hardware import choose_device
from trm_jax.model import for_decoding

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # one thing, as tasks call it
# What a task may ask for and our generation does not have, of draws and of all, and the values that ask for nothing.
OF_DRAWS = {"top_k": (0, -1), "min_p": (0,), "typical_p": (1,)}
OF_ALL = {"repetition_penalty": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "length_penalty": (1,)}
OF_ALL |= {"no_repeat_ngram_size": (0,), "num_beams": (1,)}
_log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What requests must have in common to be generated together."""

    limit: int  # new tokens
    end_tokens: tuple[int, ...]
    sampling: Sampling


class TRMHarness(TemplateLM):
    """A model of ours as a model of lm-evaluation-harness.

    Example: `lm_eval.simple_evaluate(model=TRMHarness("runs/gsm8k"), tasks=["gsm8k"])`.
    """

    def __init__(
        self,
        checkpoint: str | SavedModel,
        head: Literal["trm", "backbone"] = "trm",
        supervision_steps: int | None = None,
        kv_cache: Literal["last_pass", "per_pass"] | None = None,
        dtype: Literal["bfloat16", "float32"] | None = None,
        weights: Literal["ema", "raw"] = "ema",
        batch_size: int | None = None,
        max_gen_toks: int = 1024,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        """The arguments are the options of scripts/lm_eval.py; None takes the model's own.

        `checkpoint` is a model folder or training folder, or a model that has been opened, such as an exported one.
        `max_gen_toks` counts where a task gives no limit; lm-eval's usual 256 would cut solutions. `batch_size` and
        `max_batch_size` come from lm-eval; "auto", like None, takes as many rows as fit.
        """
        super().__init__()
        for name, value, known in (("head", head, ("trm", "backbone")), ("weights", weights, ("ema", "raw"))):
            if value not in known:
                raise EvaluationError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        dtype = choose_device(device or "auto", dtype)
        saved = checkpoint if isinstance(checkpoint, SavedModel) else SavedModel.open(checkpoint)
        model = saved.load(dtype, use_ema=weights == "ema")
        self.tokenizer = saved.tokenizer
        self._name = str(saved.path)
        self._choices = dict(supervision_steps=supervision_steps, kv_cache=kv_cache, head=head)
        self._batch_size = None if batch_size is None or str(batch_size).startswith("auto") else int(batch_size)
        self._max_gen_toks, self.max_length = int(max_gen_toks), model.backbone.config.max_length
        self._model = for_decoding(model, donate=True)

    @property
    def eot_token_id(self) -> int:
        return end_token(self.tokenizer)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as a text; without a generation prompt its last message can be continued."""
        options = dict(add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt)
        return render_chats(self.tokenizer, [chat_history], **options)[0]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """Never adds special tokens: a chat template writes those that belong there, as a text."""
        return self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A completion of each request's context, cut at the first of its stop strings.

        Requests that are alike get different draws. The order of the requests makes no difference.
        """
        groups: dict[Settings, list[tuple[list[int], int]]] = {}
        seen: dict[tuple, int] = {}
        for index, (context, wishes) in enumerate(request.args for request in requests):
            key = (context, str(sorted(wishes.items())))
            seen[key] = seen.get(key, -1) + 1
            prompt, settings = self._settings(self.tok_encode(context), wishes, seen[key])
            groups.setdefault(settings, []).append((prompt, index))
        texts = [""] * len(requests)
        for settings, members in sorted(groups.items()):
            members.sort()  # batches are made in the order of the prompts
            config = decode_config(self._model, **self._choices, eos_token_ids=settings.end_tokens)
            prompts = [prompt for prompt, _ in members]
            stops = [self._stops(requests[index].args[1])[1] for _, index in members]
            options = {"sampling": settings.sampling, "is_whole": self._stop_test(stops)}
            for completion in generate_each(self._model, prompts, settings.limit, config, self._batch_size, **options):
                index = members[completion.prompt][1]
                context, wishes = requests[index].args
                text = self.tokenizer.decode(completion.tokens, skip_special_tokens=True)
                texts[index] = cut(text, stop_strings(wishes))
                self.cache_hook.add_partial("generate_until", (context, wishes), texts[index])
        return texts

    def _stop_test(self, stops: Sequence[Sequence[str]]) -> Callable[[int, Sequence[int]], bool] | None:
        """Whether the newest tokens of a prompt's completion hold one of the prompt's stop strings, of whatever tokens.

        None if there are none. As much as the longest stop string must follow: one that began earlier may end in it.
        """
        if not any(stops):
            return None
        longest = max(len(stop.encode()) for each in stops for stop in each)
        reach = ASKED_EVERY + 2 * longest  # tokens, each of which is at least a byte: the others have been looked at

        def holds_stop(number: int, tokens: Sequence[int]) -> bool:
            text = self.tokenizer.decode(tokens[-reach:], skip_special_tokens=True)
            return any(0 <= text.find(stop) <= len(text) - longest for stop in stops[number])

        return holds_stop

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows of the backbone's length where it is longer."""
        owners, windows = [], []
        for index, (text,) in enumerate(request.args for request in requests):
            pairs = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            for pair in pairs:
                owners.append(index)
                windows.append((("", ""), *make_disjoint_window(pair)))
        totals = [0.0] * len(requests)
        for index, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy decoding would produce it."""
        # As in lm-eval's own models a text that is too long loses its beginning; its last token is never read.
        pairs = []
        for _, context, continuation in requests:
            continuation = continuation[-self.max_length :]
            text = (context + continuation)[-(self.max_length + bool(continuation)) :]
            pairs.append((text[: len(text) - len(continuation)], continuation))
        scored = score_continuations(
            self._model, pairs, self._choices["head"], self._choices["supervision_steps"], self._batch_size
        )
        found = []
        for (key, _, _), (scores, greedy) in zip(requests, scored, strict=True):
            result = float(scores.sum(dtype="float64")), bool(greedy.all())
            found.append(result)
            if any(key):
                self.cache_hook.add_partial("loglikelihood", key, result)
        return found

    def _settings(self, prompt: list[int], wishes: dict[str, Any], seed: int) -> tuple[list[int], Settings]:
        """The settings of a request, whose prompt loses its beginning if it leaves no room for a completion."""
        wanted = next((int(wishes[name]) for name in LENGTHS if wishes.get(name) is not None), self._max_gen_toks)
        room = self.max_length - min(wanted, self.max_length // 2)
        if len(prompt) > room and len(prompt) >= self.max_length:
            _log.warning(f"a prompt of {len(prompt):,} tokens is cut to its last {room:,}")
            prompt = prompt[-room:]
        # As transformers: a task that draws and names no temperature has 1.
        usual = 1.0 if wishes.get("do_sample") else 0.0
        temperature = float(usual if wishes.get("temperature") is None else wishes["temperature"])
        if not wishes.get("do_sample", temperature > 0):
            temperature = 0.0
        for name, nothing in (OF_ALL | (OF_DRAWS if temperature else {})).items():
            if wishes.get(name) not in (None, *nothing):
                raise EvaluationError(
                    f"a task wants {name} {wishes[name]}, which our generation does not have: remove it from the task's "
                    "generation_kwargs"
                )
        return prompt, Settings(
            limit=min(wanted, self.max_length - len(prompt)),
            end_tokens=tuple(sorted({*self._model.backbone.config.end_tokens, *self._stops(wishes)[0]})),
            sampling=Sampling(temperature, float(wishes.get("top_p") or 1.0), seed) if temperature else GREEDY,
        )

    def _stops(self, wishes: dict[str, Any]) -> tuple[list[int], list[str]]:
        """The stop strings of a request that are special tokens, as tokens, and the others.

        A text has no special tokens any more: one that is a stop string must end the completion as a token.
        """
        special, stops = set(self.tokenizer.all_special_tokens), stop_strings(wishes)
        tokens = self.tokenizer.convert_tokens_to_ids([stop for stop in stops if stop in special])
        return tokens, [stop for stop in stops if stop not in special]


def stop_strings(wishes: dict[str, Any]) -> list[str]:
    """The stop strings of a request, which are one, several or none."""
    until = wishes.get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]


def cut(text: str, stops: Iterable[str]) -> str:
    """The text before the first stop string. Looking into the text, it finds one whatever tokens it is made of.

    Example: `cut("4\\n\\nQuestion: 5", ["Question:", "\\n\\n"])` is `"4"`.
    """
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places, default=len(text))]
