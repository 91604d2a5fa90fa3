"""Control tokens: which ones a tokenizer has, and how text from outside is kept from becoming one."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from agentsleep.errors import InputError


class Part(NamedTuple):
    """A stretch of text; ``said`` where it comes from outside and must stay text."""

    text: str
    said: bool


class Controls:
    """The control tokens of a tokenizer: its special tokens, and added ones that its chat template writes (Qwen's
    ``<tool_response>`` is added but not special). Added white space (Gemma's) is text.

    Args:
        template: the text of the chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        named = set(getattr(tokenizer, "chat_control_tokens", None) or ())  # transformers' own list, where one is kept
        self._ids: dict[str, int] = {
            token.content: i
            for i, token in added.items()
            if token.special or (not token.content.isspace() and (token.content in template or token.content in named))
        }
        # What stands for unknown characters is no sign that they spell it.
        self._known = frozenset(self._ids.values()) - {tokenizer.unk_token_id}
        self._any = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or "(?!)")
        plain = [token.content for token in added.values() if token.content in self._ids and not token.rstrip]
        eos = tokenizer.eos_token
        self._anchor: str | None = eos if eos in plain else next(iter(plain), None)
        self._salt = f"slot{secrets.token_hex(6)}"  # nobody outside can know it
        self._stand_in = re.compile(rf"{self._salt}n(\d+)n")

    def __contains__(self, token: int) -> bool:
        return token in self._known

    @property
    def ids(self) -> Mapping[str, int]:
        """The control tokens."""
        return self._ids

    def slot(self, name: str) -> str:
        """A word to hold a place in a rendering: letters and digits alone, which no template escapes."""
        return f"{self._salt}w{name}w"

    def pieces(self, text: str) -> tuple[str | int, ...]:
        """What a template wrote, with the ids of its control tokens in their places."""
        pieces: list[str | int] = []
        place = 0
        for match in self._any.finditer(text):
            pieces += [text[place : match.start()], self._ids[match[0]]]
            place = match.end()
        return tuple(piece for piece in (*pieces, text[place:]) if piece != "")

    def encode(self, parts: Iterable[Part], *, opening: bool = False) -> list[int]:
        """Token ids of the parts written one behind the other: as the tokenizer cuts the whole text, but for control
        tokens in what was said, which are cut in two and so stay text.

        Args:
            opening: the text begins a window; otherwise it is encoded as standing behind a control token.

        Raises:
            InputError: what was said has no UTF-8 form, or cannot be kept from becoming a control token.
        """
        parts = list(parts)
        text = "".join(part.text for part in parts)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text has no UTF-8 form ({error}); replace what stands there") from None
        meant, cuts = self._read(text, parts)
        ids: list[int] = []
        for place, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(text)], strict=True)):
            ids += self._encode(text[start:stop], opening and place == 0)
        forged = Counter(i for i in ids if i in self) - Counter(meant)
        if forged:
            tokens = self._tokenizer.convert_ids_to_tokens(list(forged))
            raise InputError(f"the text reads as the control tokens {tokens}, which only the template may write")
        return ids

    def _read(self, text: str, parts: Sequence[Part]) -> tuple[list[int], list[int]]:
        """The control tokens that the template wrote, and the places to cut those that were said."""
        said: list[range] = []
        place = 0
        for part in parts:
            if part.said:
                said.append(range(place, place + len(part.text)))
            place += len(part.text)
        meant, cuts = [], []
        place = 0
        while match := self._any.search(text, place):
            if any(match.start() < r.stop and r.start < match.end() for r in said):
                place = match.start() + 1
                cuts.append(place)
            else:
                place = match.end()
                meant.append(self._ids[match[0]])
        return meant, cuts

    def _encode(self, text: str, opening: bool) -> list[int]:
        if opening or self._anchor is None:
            return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        # Behind a control token a tokenizer adds no space of its own, as it may at the beginning of a text.
        ids: list[int] = self._tokenizer(self._anchor + text, add_special_tokens=False, verbose=False).input_ids
        return ids[1:]

    def shield(self, value: Any) -> tuple[Any, list[str]]:
        """A copy of nested lists and dicts of strings with a stand-in for each control token in them, and the control
        tokens that the stand-ins are for."""
        found: list[str] = []

        def copy(value: Any) -> Any:
            if isinstance(value, str):
                return self._any.sub(replaced, value)
            if isinstance(value, dict):
                return {copy(key): copy(item) for key, item in value.items()}
            return [copy(item) for item in value] if isinstance(value, (list, tuple)) else value

        def replaced(match: re.Match[str]) -> str:
            found.append(match[0])
            return f"{self._salt}n{len(found) - 1}n"

        return copy(value), found

    def parts(self, text: str, found: Sequence[str]) -> Iterator[Part]:
        """A rendering of shielded values with its stand-ins resolved."""
        for place, piece in enumerate(self._stand_in.split(text)):
            yield Part(found[int(piece)], True) if place % 2 else Part(piece, False)
