"""What of its list an agent shows its model: the end of it, or what BM25 finds in it, or all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain.agents.middleware.types import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage, trim_messages

from agentsleep.errors import SettingsError
from agentsleep.tasks import rota

Count = Callable[[list[BaseMessage]], int]
View = Callable[[list[BaseMessage], int], list[BaseMessage]]
"""Of a list, and of the tokens that it may take up."""


class Shown(AgentMiddleware[Any, Any, Any]):
    """Shows the model a view of the list; the list itself stays whole.

    Args:
        room: tokens that messages may take up in the window.
    """

    def __init__(self, view: View, room: int) -> None:
        super().__init__()
        self._view, self._room = view, room

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Shows it."""
        shown: Any = self._view(list(request.messages), self._room)
        return handler(request.override(messages=shown))


def whole(messages: list[BaseMessage], room: int) -> list[BaseMessage]:
    """All of it: for a window that is large enough."""
    return messages


def trimmed(count: Count) -> View:
    """The newest messages that fit, by ``trim_messages``. The model was trained on windows that begin anywhere between
    two messages, so nothing is said of what the list has to start with: that would only make it shorter."""

    def view(messages: list[BaseMessage], room: int) -> list[BaseMessage]:
        kept: list[BaseMessage] = trim_messages(messages, max_tokens=room, token_counter=count, strategy="last")
        return kept

    return view


def retrieved(count: Count, *, iterated: bool) -> View:
    """What BM25 finds among the results of tools, where all facts are, in the order of the log; then the turn that goes
    on, from the user's last message.

    Args:
        iterated: names in what was found are asked for next, until nothing is new or the window is full. Otherwise the
            question alone is asked.
    """

    def view(messages: list[BaseMessage], room: int) -> list[BaseMessage]:
        start = max((i for i, one in enumerate(messages) if isinstance(one, HumanMessage)), default=0)
        log = [one for one in messages[:start] if isinstance(one, ToolMessage)]
        left = room - count(messages[start:])
        asked = [str(messages[start].content)]
        found: set[int] = set()
        search = _Search([str(one.content) for one in log])
        done: set[str] = set()
        while asked:
            fresh: list[int] = []
            for place in search.best(" ".join(asked)):
                size = count([log[place]])
                if place not in found and size <= left:
                    found.add(place)
                    fresh.append(place)
                    left -= size
            done |= _names(asked)
            names = _names(str(log[place].content) for place in fresh) - done
            asked = sorted(names) if iterated else []
        return [*(log[place] for place in sorted(found)), *messages[start:]]

    return view


def chained(facts: Sequence[str]) -> View:
    """What a retriever would find that knew the answer: exactly these facts, in the order of the log."""

    def view(messages: list[BaseMessage], room: int) -> list[BaseMessage]:
        found = [one for one in messages if isinstance(one, ToolMessage) and one.content in facts]
        return [*found, messages[-1]]

    return view


def _names(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text) if word in rota.NAMES}


class _Search:
    """BM25 over texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError:
            raise SettingsError("bm25s is not installed; pip install 'langchain-agentsleep[bench]'") from None
        self._texts = texts
        self._index = bm25s.BM25()
        if texts:
            self._index.index([_words(text) for text in texts], show_progress=False)

    def best(self, query: str) -> list[int]:
        """Places of the texts that have anything to do with a query, the best first; of equals, the newest."""
        if not self._texts:
            return []
        scores = self._index.get_scores(_words(query))
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], -place))
        return [place for place in order if scores[place] > 0]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
