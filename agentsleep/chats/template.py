"""The chat format of any checkpoint: its tokenizer and Jinja chat template, used one message at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from agentsleep.chats.callforms import Finder, Scene, checked
from agentsleep.chats.calls import CallReader
from agentsleep.chats.controls import Controls, Part
from agentsleep.chats.forms import CallForm, CallMarkers, Piece, TextForm
from agentsleep.chats.heads import NoSystem, head
from agentsleep.chats.prompts import Prompted, find_past, find_prompt
from agentsleep.chats.replies import by_markers, by_response_template
from agentsleep.chats.thoughts import Markers
from agentsleep.chats.turns import REMEDY, STAND_IN_TOOL, Refused, Renderer, Turn, Turned, called
from agentsleep.chats.values import Reply, Role, ToolCall, ToolSchema
from agentsleep.errors import EmptyMessage, InputError, UnsupportedModel
from agentsleep.tokens import decode_text

_ROLES: tuple[Role, ...] = ("assistant", "system", "tool", "user")


class TemplateChat:
    """Renders messages as a chat template would in the middle of a conversation.

    Where a template is append-only, the head and the messages behind each other are its own text of the whole
    conversation. Where it is not, this is what a window reads:

    * Each tool result is a turn of its own, also where the template puts several into one.
    * A system message that the template takes into the first user turn, or does not take at all, is a user turn of
      its own; so is one in the middle of a conversation.
    * Tools that the template repeats at the newest message stand at the head alone.
    * Past turns are those of an assistant without thoughts; a thought that was written stays, until
      :meth:`without_thought` takes it out.
    * Of a content, a template's edits of its ends (white space) and its quoting (JSON) are followed, others refused.
      What the template does with a certain text inside a content is not done.

    No content can become a control token, and so none can forge a turn. Where a template's markers are no tokens of
    their own but plain text, anyone can write them.

    A template that writes the date writes another head on another day; ``variables`` can fix it.

    Args:
        tokenizer: with a ``chat_template``.
        variables: further variables of the template, such as ``enable_thinking=False`` or ``date_string=...``.

    Raises:
        InputError: the tokenizer has no chat template.
        UnsupportedModel: the template cannot be used one message at a time; the message says how it behaves.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, variables: Mapping[str, Any] | None = None) -> None:
        template = tokenizer.chat_template
        if not template:
            raise InputError("the tokenizer has no chat template; set tokenizer.chat_template")
        text = template if isinstance(template, str) else "\n".join(template.values())
        self.tokenizer, self._variables = tokenizer, dict(variables or {})
        self._controls = Controls(tokenizer, text)
        self._renderers: dict[str, Renderer] = {}
        self._calls, self._markers = CallReader(text), Markers.of(text)
        self._settle(())

    def with_tools(self, tools: Sequence[ToolSchema]) -> TemplateChat:
        """This format in a conversation that offers these tools: templates may write its turns otherwise, and the
        tools' schemas give the types of arguments that are written as tags."""
        other = copy.copy(self)
        other._settle(tools)
        return other

    def _settle(self, tools: Sequence[ToolSchema]) -> None:
        self._tools = tuple(tools)
        try:  # a tokenizer may have a template of its own for conversations with tools
            template = self.tokenizer.get_chat_template(tools=[STAND_IN_TOOL] if tools else None)
        except ValueError as error:
            raise InputError(f"the tokenizer has no chat template of this kind: {error}") from error
        if template not in self._renderers:
            self._renderers[template] = Renderer(self.tokenizer, self._controls, template, self._variables)
        self._renderer = self._renderers[template]
        self._user, self._assistant = self._turn("user")[0], self._turn("assistant")[0]
        self._prompt_text = find_prompt(self._renderer, bool(tools))
        self._prompt = self._controls.encode([Part(self._prompt_text, False)])
        self._past = find_past(self._renderer, self._controls, self._markers, self._user)
        self._call_form: CallForm | None = None
        ids = self._controls.encode([Part(self._assistant.after, False)])
        place = next((place for place, i in enumerate(ids) if i in self._controls), None)
        if place is None:
            if self.tokenizer.eos_token_id is None:
                raise UnsupportedModel(
                    f"the chat template ends an assistant's turn with {self._assistant.after!r}, which is no special "
                    "token, and the tokenizer has no eos_token; nothing would end a turn: set tokenizer.eos_token"
                )
            self.end, self.close, self._trail = int(self.tokenizer.eos_token_id), ids, ""
        else:
            self.end, self.close = ids[place], ids[place + 1 :]
            self._trail = decode_text(self.tokenizer, ids[:place])

    # Turns

    def _turn(self, role: Turned) -> tuple[Turn, bool]:
        """A turn of the template, and whether it was found among turns that offer tools."""
        refused: Refused | None = None
        for tools in (True, False) if self._tools or role in ("tool", "call") else (False,):
            try:
                return self._renderer.turn(role, tools), tools
            except Refused as error:
                refused = refused or error
        raise UnsupportedModel(
            f"the chat template has no {role} turn that can be read for itself: {refused}; {REMEDY}"
        ) from refused

    def message(self, role: Role, text: str) -> list[int]:
        """A whole turn.

        Raises:
            EmptyMessage: no text.
            InputError: an unknown role, or text that cannot be told from control tokens.
            UnsupportedModel: the template has no such turn.
        """
        if role not in _ROLES:
            raise InputError(f"role {role!r} is none of {list(_ROLES)}")
        if not text or not text.strip():
            raise EmptyMessage(f"a {role} message has no text ({text!r}); leave it out or give it some")
        try:
            turn = self._turn(role)[0]
        except UnsupportedModel:
            if role != "system":
                raise
            turn = self._user
        said = Part(turn.manner.write(text), True)
        return self._controls.encode([Part(turn.before, False), said, Part(turn.after, False)])

    def call(self, call: ToolCall) -> list[int]:
        """An assistant's turn that calls a tool, as the template writes it.

        Raises:
            UnsupportedModel: the template writes no calls.
            InputError: it does not write this one.
        """
        scene = self._scene()
        (name, arguments), found = self._controls.shield([call.name, dict(call.arguments)])
        try:
            text = scene.past(called(name, arguments))
        except Refused as refused:
            raise InputError(f"the chat template does not write the call {call}: {refused}") from refused
        return self._controls.encode(self._controls.parts(text, found))

    def _scene(self) -> Scene:
        tools = self._turn("call")[1]
        try:
            user = self._renderer.turn("user", tools)
        except Refused:
            user = self._user
        return Scene(self._renderer, user, self._turn("tool")[0], tools)

    def prompt(self) -> list[int]:
        """What the model continues with its answer."""
        return list(self._prompt)

    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> list[int]:
        """What stands at the head of every window: what the template writes there, with the system message and the
        tools or without. Not empty where a template begins with a token, a date, or words of its own.

        Raises:
            EmptyMessage: a system message of blanks.
            InputError: the template does not write these tools.
            UnsupportedModel: it writes no tools at all, or no head that ends before the first message.
        """
        if system and not system.strip():
            raise EmptyMessage(f"a system message has no text ({system!r}); leave it out or give it some")
        here = self if bool(tools) == bool(self._tools) else self.with_tools(tools)
        try:
            parts = head(here._renderer, self._controls, here._user, system or None, tools)
        except NoSystem:
            return [*self.head(None, tools), *here.message("user", system or "")]
        return self._controls.encode(parts, opening=True)

    # What the model writes

    def text_form(self) -> TextForm:
        """What the model writes around an answer in words. A thought that the prompt opens is closed, empty."""
        lead = self._prompted().behind(self._assistant.before) or ""
        return TextForm(self._controls.pieces(lead), (self._trail,) if self._trail else ())

    def call_form(self) -> CallForm:
        """What the model writes around tool calls, so that :meth:`parse` reads them. A thought that the prompt opens
        is closed, empty.

        Raises:
            UnsupportedModel: the template has no calls, or writes them in a way that no form describes.
        """
        if self._call_form is not None:
            return self._call_form
        try:
            form, rest = Finder(self._scene(), self._prompted(), self._controls, self._calls).find()
            self._call_form = checked(replace(form, close=self._to_end(rest)), self._read)
            return self._call_form
        except Refused as refused:
            raise UnsupportedModel(
                f"how the chat template writes calls cannot be asked of a model: {refused}; let the model choose "
                "whether it calls a tool, or set tokenizer.chat_template to one that writes calls as JSON"
            ) from refused

    @property
    def call_markers(self) -> CallMarkers:
        """What makes a turn be read as a call."""
        return self._calls.markers(self._controls.ids)

    def _prompted(self) -> Prompted:
        return Prompted.of(self._renderer, self._user, self._prompt_text, self._markers, bool(self._tools))

    def _to_end(self, text: str) -> tuple[Piece, ...]:
        """What of a turn's text stands in front of its end token."""
        pieces = self._controls.pieces(text)
        if self.end in pieces:
            return pieces[: pieces.index(self.end)]
        return self._controls.pieces(text.removesuffix(decode_text(self.tokenizer, self.close)))

    def _read(self, pieces: Sequence[Piece]) -> tuple[ToolCall, ...]:
        """The calls in what a model wrote."""
        spelt = ([p] if isinstance(p, int) else self._controls.encode([Part(p, True)]) for p in pieces)
        return self.parse([i for ids in spelt for i in ids]).calls

    # Reading replies

    @property
    def drops_thoughts(self) -> bool:
        """Whether the template leaves thoughts out of turns that are past."""
        return self._past is not None

    def parse(self, ids: Sequence[int]) -> Reply:
        """A generated turn, with or without its end token. A malformed call becomes text and a warning."""
        if getattr(self.tokenizer, "response_template", None):
            text = decode_text(self.tokenizer, self._until_end(ids))
            return by_response_template(self.tokenizer, text, self._prompt_text, self._tools)
        return by_markers(self._calls, self._markers, self.text(ids), self._prompt_text, self._tools)

    def text(self, ids: Sequence[int]) -> str:
        """All that a generated turn says, without what the template writes around it."""
        lead = self._assistant.before
        lead = lead.removeprefix(self._prompt_text) if lead.startswith(self._prompt_text) else ""
        return decode_text(self.tokenizer, self._until_end(ids)).removeprefix(lead).removesuffix(self._trail)

    def shown(self, ids: Sequence[int]) -> str:
        """The text of a turn that is still being written, as far as it is certain."""
        _, text, closed = self._markers.split(self._prompt_text, self.text(ids))
        certain = self._markers.before(self._calls.before(text)) if closed else ""
        return certain.rstrip("\ufffd").rstrip()

    def _until_end(self, ids: Sequence[int]) -> list[int]:
        ids = list(ids)
        return ids[: ids.index(self.end)] if self.end in ids else ids

    def without_thought(self, ids: Sequence[int]) -> list[int]:
        """A generated turn as it stands in the conversation once it is past: the same tokens where the template keeps
        thoughts or there is none, else without the thought.

        Args:
            ids: the turn from its prompt on, with or without its end and what is behind it.

        Raises:
            InputError: it does not begin with the prompt.
        """
        ids, prompt = list(ids), self._prompt
        if ids[: len(prompt)] != prompt:
            raise InputError(f"the turn begins with {ids[: len(prompt)]}, not with the prompt {prompt}")
        written = self._until_end(ids[len(prompt) :])
        tail = ids[len(prompt) + len(written) :]

        def decode(ids: Sequence[int]) -> str:
            return decode_text(self.tokenizer, ids)

        count = self._markers.behind(self._prompt_text, written, decode)
        if count is None and self._markers.opened in self._prompt_text:
            count = 0  # the prompt itself has opened and closed a thought
        if self._past is None or count is None:
            return ids
        spelt = decode(written[:count]).partition(self._markers.closed)[2]  # of the token that the thought ends in
        rest = written[count:]
        while rest and not spelt.strip() and (text := decode(rest[:1])).lstrip() != text:
            spelt, rest = text, rest[1:]
        answer = self._controls.encode([Part(spelt.lstrip(), True)]) if spelt.strip() else []
        return [*self._controls.encode([Part(self._past, False)]), *answer, *rest, *tail]
