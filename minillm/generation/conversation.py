"""A conversation with a model: messages, of which the answers are written by the model.

    chat = chat_of("SmolLM2")                           # minillm.pretrained.chat: the template
    conversation = Conversation(model, tokenizer, chat, Sampler(temperature=0.8, seed=0))
    for piece in conversation.answer("What is a cache?"):     # text, as it is drawn
        print(piece, end="", flush=True)
    conversation.messages       # [{"role": "user", ...}, {"role": "assistant", ...}]

Before each answer the template turns all messages into one text, and the text into ids. The cache
holds the ids of the turn before, so only those are read that are new (prefix.py). What is written
is what a pass over the whole text without a cache would lead to.

The context holds a limited number of tokens. Where the messages leave no room for an answer, the
oldest turns are no longer shown to the model, a whole turn (a question and its answer) at a time.
The system message stays. `messages` keeps all of them.

Token n of the answer to question k is drawn with the random numbers (k, n) of the seed. So an answer
depends on the messages, the settings and the seed, but not on how the messages came about: typed,
loaded from a file, or after others were taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from minillm.data.special import end_of_text, special_tokens
from minillm.errors import UserError
from minillm.generation.messages import checked_messages
from minillm.generation.prefix import PrefixReader
from minillm.generation.text import TextStream, check_stop_strings
from minillm.generation.turns import questions, system_message, turns
from minillm.sampler.history import History
from minillm.sampler.sampler import Sampler

STEPS = 1 << 32  # of the sampler, for each answer


class Template(Protocol):
    """What turns messages into ids: minillm.pretrained.chat.Chat."""

    def encode(self, tokenizer, messages: list[dict]) -> tuple[list[int], int | None]:
        """(the ids that an answer follows, the id of the model's EOS or None)"""

    def answer_ends(self, tokenizer) -> set[int]:
        """The ids that end an answer."""

    def end_text(self, tokenizer) -> str | None:
        """The text that ends an answer, where no id does."""


class Answer:
    """An answer while it is written: an iterator of text, with whole characters only.

    text: what was written so far. ids: its tokens, with the one that ended it. reason: None while
    it is written; then "end" (by the model), "stop" (a stop string), "length" (max_tokens),
    "context" (the context is full), or "stopped" (by `stop`). kept: how many tokens of the messages
    were in the cache; read: how many the model had to compute before the first token of the answer.
    left: how many turns left the context to make room for this answer.
    """

    def __init__(self, write: Callable[[Answer], Iterator[str]], left: int):
        self.text, self.ids, self.reason = "", [], None
        self.kept = self.read = 0
        self.left, self.stopping = left, False
        self._pieces = write(self)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def stop(self) -> None:
        """End before the next token. Can be called from a signal handler, or another thread."""
        self.stopping = True

    def finish(self) -> None:
        """Write no more; what was written stays in the conversation."""
        self.stop()
        for _ in self._pieces:
            pass


class Conversation:
    """messages: all so far, as {"role": "user", "content": "Hi"}; read them, and change them by the
    methods. sampler, max_tokens, stop: settings of the answers to come.

    chat: the model's template, as `minillm.pretrained.chat.chat_of` finds it. sampler: by default
    one that draws from the model's own probabilities. max_tokens: of an answer; None: as many as
    the context has room for. stop: texts that end an answer, and are no part of it. end_tokens: ids
    that end an answer besides the tokenizer's end of text and those that the template names.

    Every method that raises UserError leaves the conversation as it was.
    """

    def __init__(
        self,
        model,
        tokenizer,
        chat: Template,
        sampler: Sampler | None = None,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        end_tokens: Collection[int] = (),
    ):
        check_stop_strings(stop)
        self.model, self.tokenizer, self.chat = model, tokenizer, chat
        self.sampler, self.max_tokens, self.stop = sampler or Sampler(), max_tokens, tuple(stop)
        self.messages: list[dict] = []
        self.end_tokens = frozenset({*end_tokens, *end_of_text(tokenizer).values(), *chat.answer_ends(tokenizer)})
        self._end_text = chat.end_text(tokenizer)
        self._reader = PrefixReader(model)
        self._first: int | None = 0  # of the messages after the system's, the first that is seen
        self._attempt = 0  # how often the last answer was written anew
        self._answer: Answer | None = None  # that is being written

    @property
    def system(self) -> str | list | None:
        """The content of the system message; None where there is none."""
        return self.messages[0]["content"] if system_message(self.messages) else None

    @property
    def tokens_read(self) -> int:
        """How many tokens the model has computed in this conversation, answers included."""
        return self._reader.count

    # ------------------------------------------------------------------------------------- answers

    def answer(self, text: str) -> Answer:
        """Say something, and have it answered.

        The message is in `messages` at once, the answer when it is complete. Raises UserError for a
        message that does not fit into the context, and where the template refuses the messages.
        """
        self._settle()
        return self._begin([*self.messages, {"role": "user", "content": text}], attempt=0)

    def retry(self) -> Answer:
        """Answer the last message of the user once more, with other random numbers.

        Raises UserError where nothing was said.
        """
        self._settle()
        last = self._last_question()
        again = any(message["role"] == "assistant" for message in self.messages[last + 1 :])
        return self._begin(self.messages[: last + 1], self._attempt + 1 if again else 0)

    def _begin(self, messages: list[dict], attempt: int) -> Answer:
        before = self._first or 0
        ids, first = self._visible(messages)
        was = self.messages, self._first, self._attempt
        self.messages, self._first, self._attempt = messages, first, attempt
        left = sum(before <= at < first for at in turns(messages))
        self._answer = Answer(lambda answer: self._written(answer, ids, was), left)
        return self._answer

    def _written(self, answer: Answer, ids: list[int], was: tuple) -> Iterator[str]:
        """The pieces of an answer; at its end, it is one of the messages.

        An error takes the question back; `was` is how things were before it.
        """
        try:
            yield from self._tokens(answer, ids)
        except (GeneratorExit, KeyboardInterrupt):
            answer.reason = "stopped"
            raise
        except BaseException:
            self.messages, self._first, self._attempt = was
            raise
        finally:
            self._answer = None
            if answer.reason == "stopped" and not answer.text:
                self.messages, self._first, self._attempt = was  # a question without an answer
            elif answer.reason:
                self.messages = [*self.messages, {"role": "assistant", "content": answer.text}]

    def _tokens(self, answer: Answer, ids: list[int]) -> Iterator[str]:
        """Draw tokens until there is a reason to end; yields text, and sets the answer's fields."""
        settings, reader = self.sampler.settings, self._reader
        sampler = self.sampler.with_settings(seed=settings.seed + self._attempt)
        sampler.reset((len(questions(self.messages)) - 1) * STEPS)
        stops = (*self.stop, self._end_text) if self._end_text else self.stop
        stream, silent = TextStream(self.tokenizer, stops, ids), set(special_tokens(self.tokenizer).values())
        history, count = History([list(ids)], [len(ids)]), reader.count
        logits = reader.read(ids, lambda: answer.stopping)
        answer.read = reader.count - count
        answer.kept = len(reader.ids) - answer.read
        while not (answer.stopping or logits is None):
            token = int(sampler.sample(logits, history)[0])
            answer.ids.append(token)
            history.ids[0].append(token)
            piece = "" if token in silent or token in self.end_tokens else stream.push(token)
            if piece:
                answer.text += piece
                yield piece
            answer.reason = self._reason(answer, stream)
            if answer.reason:
                break
            logits = reader.append([token])
        answer.reason = answer.reason or "stopped"
        rest = "" if stream.stopped else stream.finish()
        if answer.reason != "end":
            rest = rest.rstrip("\N{REPLACEMENT CHARACTER}")  # of a character that is cut off
        if rest:
            answer.text += rest
            yield rest

    def _reason(self, answer: Answer, stream: TextStream) -> str | None:
        """Why an answer ends with the token that it has last; None where it goes on."""
        if answer.ids[-1] in self.end_tokens:
            return "end"
        if stream.stopped:
            return "end" if stream.stopped_by == self._end_text else "stop"
        if self.max_tokens is not None and len(answer.ids) >= self.max_tokens:
            return "length"
        return "context" if len(self._reader.ids) == self.model.config.context_length else None

    # ------------------------------------------------------------------- what the model sees of them

    def _visible(self, messages: list[dict]) -> tuple[list[int], int]:
        """(ids, first): of the messages besides the system's, those from `first` on are seen.

        Raises UserError where the last message alone is too long.
        """
        first = self._first
        if first is None:  # other messages than before: as if they had been said one by one
            first = 0
            for at in questions(messages)[:-1]:
                _, first = self._slide(messages[: at + 1], first)
        ids, first = self._slide(messages, first)
        context = self.model.config.context_length
        if len(ids) > context:
            raise UserError(
                f"the message has {len(ids):,} tokens, with the system message and what the template adds, and the model "
                f"sees {context:,} at a time: shorten it"
            )
        return ids, first

    def _slide(self, messages: list[dict], first: int) -> tuple[list[int], int]:
        """As `_visible`, for messages of which the first ones are out of sight already.

        Where less than a quarter of the context is left for the answer, turns leave until the rest
        takes at most half of it: a text that begins elsewhere has to be read anew, which is not to
        happen at every turn.
        """
        context = self.model.config.context_length
        ids = self._encode(messages, first)
        if len(ids) + min(self.max_tokens or context, context // 4) <= context:
            return ids, first
        for first in [at for at in turns(messages) if at > first]:
            ids = self._encode(messages, first)
            if len(ids) <= context // 2:
                break
        return ids, first

    def _encode(self, messages: list[dict], first: int) -> list[int]:
        system = system_message(messages)
        ids, _ = self.chat.encode(self.tokenizer, [*system, *messages[len(system) + first :]])
        if not ids:
            raise UserError("the chat template makes no text of the messages")
        return ids

    # ---------------------------------------------------------------------------------- the messages

    def undo(self) -> list[dict]:
        """Take back the last message of the user and what followed it; returns them.

        Raises UserError where nothing was said.
        """
        self._settle()
        last = self._last_question()
        taken = self.messages[last:]
        self._replace(self.messages[:last])
        return taken

    def reset(self) -> None:
        """Take back everything but the system message."""
        self._settle()
        self._replace(system_message(self.messages))

    def set_system(self, text: str | None) -> None:
        """Set the system message, or remove it (None). What was said stays.

        Raises UserError where the template takes no system message.
        """
        self._settle()
        system = [] if text is None else [{"role": "system", "content": text}]
        self.load([*system, *self.messages[len(system_message(self.messages)) :]])

    def shows_system(self) -> bool:
        """Whether the template shows the system message to the model; True where there is none."""
        question, system = [{"role": "user", "content": "Hi"}], system_message(self.messages)
        encode = self.chat.encode
        return not system or encode(self.tokenizer, question) != encode(self.tokenizer, system + question)

    def load(self, messages: Sequence[dict]) -> None:
        """Go on with other messages. Raises UserError for what is none, and where the template
        refuses them.
        """
        messages = checked_messages(messages)
        self._settle()
        self._encode(messages if questions(messages) else [*messages, {"role": "user", "content": "Hi"}], 0)
        self._replace(messages)

    def _replace(self, messages: list[dict]) -> None:
        self.messages, self._first, self._attempt = list(messages), None, 0

    def _settle(self) -> None:
        """End an answer that is being written."""
        if self._answer is not None:
            self._answer.finish()

    def _last_question(self) -> int:
        asked = questions(self.messages)
        if not asked:
            raise UserError("nothing was said yet")
        return asked[-1]
