"""Grammars against a model that says anything at random: what it writes is read, valid, and ends in time."""

from __future__ import annotations

import datetime
import enum
import gc
import json
import uuid
import weakref
from typing import Any, Literal, Optional, Union

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model
from tests.formats import FAMILIES, TOOLS, chat, families, said, wordpiece
from tests.talk import Open

from agentsleep.chats import TemplateChat
from agentsleep.errors import InputError, SettingsError, UnsupportedModel
from agentsleep.memory import SleepMemory
from agentsleep.tokens import decode_text
from langchain_agentsleep.grammar import forbidden_calls, forced_calls, guided, json_answer
from langchain_agentsleep.grammar.vocabulary import vocabulary_of

MOST = 200


class LookUp(BaseModel, extra="forbid"):
    person: str
    times: int | None = None
    exact: bool | None = None
    where: dict[str, Any] | None = None
    ways: list[str] | None = None
    share: float | None = None


class Now(BaseModel, extra="forbid"):
    pass


class Color(enum.Enum):
    RED = "red"
    BLUE = "the blue one"


class Leaf(BaseModel):
    size: float = Field(ge=0, lt=2.5)
    color: Color


class Tree(BaseModel):
    """Nested, recursive, bounded, with words that limit nothing."""

    name: str = Field(description="A name.", min_length=2, max_length=9, examples=["x"])
    code: str = Field(pattern=r"^[A-Z]{3}-\d+$")
    count: int = Field(ge=-3, le=12)
    leaves: list[Leaf] = Field(min_length=1, max_length=3)
    inner: Tree | None = None
    kind: Literal["a", "b", 3]
    either: int | str | None = None
    pair: tuple[int, str] = (1, "x")
    notes: dict[str, int] = Field(default_factory=dict)


class Times(BaseModel):
    day: datetime.date
    at: datetime.datetime
    clock: datetime.time
    id: uuid.UUID


VALID = {"look_up": LookUp, "now": Now}


def tool(model: type[BaseModel], name: str = "made") -> dict[str, Any]:
    function = {"name": name, "description": "Made.", "parameters": model.model_json_schema()}
    return {"type": "function", "function": function}


def test_tools_are_those_that_are_checked() -> None:
    assert {one["function"]["name"] for one in TOOLS} == set(VALID)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", ["any", "look_up", "now"])
def test_a_forced_call(family: str, choice: str) -> None:
    spoken = chat(family)
    for seed in range(2):
        ids = said(spoken, [forced_calls(spoken, TOOLS, choice, max_tokens=MOST)], MOST, seed)
        reply = spoken.parse(ids)
        assert ids[-1] == spoken.end
        assert spoken.end not in ids[:-1]
        assert len(ids) <= MOST
        assert (reply.warning, reply.text, reply.thought, len(reply.calls)) == (None, "", None, 1)
        assert reply.call is not None
        assert reply.call.name in (VALID if choice == "any" else [choice])
        VALID[reply.call.name].model_validate(reply.call.arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_calls(family: str) -> None:
    spoken = chat(family)
    counts = set()
    for seed in range(6):
        ids = said(spoken, [forced_calls(spoken, TOOLS, "now", parallel=True, max_tokens=400)], 400, seed)
        reply = spoken.parse(ids)
        assert ids[-1] == spoken.end
        assert reply.warning is None
        counts.add(len(reply.calls))
        assert all(call.name == "now" and call.arguments == {} for call in reply.calls)
    assert 0 not in counts
    assert (max(counts) > 1) == (spoken.call_form().joint is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_grammar_it_calls_nothing(family: str) -> None:
    spoken = chat(family)
    assert not any(spoken.parse(said(spoken, [], MOST, seed)).calls for seed in range(4))


# Schemas


def model_of(fields: dict[str, Any], optional: int = 1) -> type[BaseModel]:
    made: dict[str, Any] = {
        name: (kind, None) if place == optional else (kind, ...) for place, (name, kind) in enumerate(fields.items())
    }
    return create_model(f"M{abs(hash(tuple(map(str, fields.items()))))}", **made)


SIMPLE: list[Any] = [int, float, str, bool, None, Color, Literal["x", 2], datetime.date, list, dict, Any]
TYPES = st.recursive(
    st.sampled_from(SIMPLE),
    lambda inner: (
        inner.map(lambda one: list[one])  # type: ignore[valid-type]
        | inner.map(lambda one: Optional[one])  # noqa: UP045 - it may be None itself
        | inner.map(lambda one: dict[str, one])  # type: ignore[valid-type]
        | st.tuples(inner, inner).map(lambda pair: Union[pair[0], pair[1]])  # noqa: UP007
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=2).map(model_of)
    ),
    max_leaves=4,
)


FIELDS = st.dictionaries(st.sampled_from(["one", "two", "drei"]), TYPES, min_size=1)


def fits(model: type[BaseModel], value: Any) -> None:
    """As pydantic sees it; an optional field of these models is None by default alone."""
    model.model_validate(value)


@given(FIELDS, st.sampled_from(["own", "qwen3_5", "llama3"]), st.integers(0, 99))
def test_any_schema_of_a_tool(fields: dict[str, Any], family: str, seed: int) -> None:
    spoken, model = chat(family), model_of(fields)
    spoken = spoken.with_tools([tool(model)])
    ids = said(spoken, [forced_calls(spoken, [tool(model)], max_tokens=300)], 300, seed)
    reply = spoken.parse(ids)
    assert ids[-1] == spoken.end
    assert reply.warning is None
    assert reply.call is not None
    fits(model, reply.call.arguments)


@given(FIELDS, st.sampled_from(["own", "qwen3_5", "metaspace"]), st.integers(0, 99))
def test_any_schema_of_an_answer(fields: dict[str, Any], family: str, seed: int) -> None:
    spoken, model = chat(family), model_of(fields)
    ids = said(spoken, [json_answer(spoken, model.model_json_schema(), max_tokens=300)], 300, seed)
    assert ids[-1] == spoken.end
    fits(model, json.loads(spoken.parse(ids).text))


@pytest.mark.parametrize("model", [Tree, Times, Leaf])
@pytest.mark.parametrize("family", FAMILIES)
def test_rich_schemas(family: str, model: type[BaseModel]) -> None:
    spoken = chat(family).with_tools([tool(model)])
    for seed in range(2):
        ids = said(spoken, [forced_calls(spoken, [tool(model)], max_tokens=500)], 500, seed)
        call = spoken.parse(ids).call
        assert ids[-1] == spoken.end
        assert call is not None
        model.model_validate(call.arguments)
        ids = said(spoken, [json_answer(spoken, model.model_json_schema(), max_tokens=500)], 500, seed)
        text = spoken.parse(ids).text
        assert ids[-1] == spoken.end
        assert "\n" not in text
        model.model_validate_json(text)


@pytest.mark.parametrize("kind", [int, str, list[int], Color | None, bool, dict[str, list[float]]])
def test_answers_that_are_no_objects(kind: Any) -> None:
    spoken, adapter = chat("own"), TypeAdapter(kind)
    for seed in range(4):
        ids = said(spoken, [json_answer(spoken, adapter.json_schema(), max_tokens=60)], 60, seed)
        adapter.validate_json(spoken.parse(ids).text)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_of_any_kind(family: str) -> None:
    spoken = chat(family)
    for seed in range(3):
        ids = said(spoken, [json_answer(spoken, max_tokens=MOST)], MOST, seed)
        found = json.loads(spoken.text(ids).rpartition("</think>")[2])
        assert ids[-1] == spoken.end
        assert isinstance(found, dict)
        json.dumps(found, allow_nan=False).encode()


def test_separators_and_the_blank_of_the_own_format() -> None:
    spoken = chat("own")
    guide = forced_calls(spoken, [tool(Leaf)], max_tokens=MOST)
    text = decode_text(spoken.tokenizer, said(spoken, [guide], MOST, 3))
    assert text.startswith('<|call|>{"name": "made", "arguments": {"size": ')
    assert ', "color": "' in text
    assert decode_text(spoken.tokenizer, said(spoken, [json_answer(spoken, max_tokens=40)], 40, 3)).startswith(" {")


# The budget


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shortest_turn_is_found_and_suffices(family: str) -> None:
    spoken = chat(family)
    with pytest.raises(SettingsError, match=r"max_tokens is 3, and the shortest .* takes \d+; allow more") as raised:
        forced_calls(spoken, TOOLS, "look_up", max_tokens=3)
    least = int(str(raised.value).partition("takes ")[2].partition(";")[0])
    for more in (0, 1, 7):
        for seed in range(2):
            ids = said(spoken, [forced_calls(spoken, TOOLS, "look_up", max_tokens=least + more)], 500, seed)
            assert ids[-1] == spoken.end
            assert len(ids) <= least + more
            assert spoken.parse(ids).call is not None


def test_a_string_goes_on_while_there_are_tokens_and_no_longer() -> None:
    spoken = chat("own")
    schema = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]}
    letter = spoken.tokenizer.convert_tokens_to_ids("x")
    for most in (30, 100):
        ids = said(spoken, [json_answer(spoken, schema, max_tokens=most)], 500, 0, {letter: 50.0})
        assert most - 3 <= len(ids) <= most
        assert set(json.loads(spoken.parse(ids).text)["s"]) == {"x"}
    endless = said(spoken, [json_answer(spoken, schema, max_tokens=None)], 300, 0, {letter: 50.0})
    assert spoken.end not in endless  # the mutation: without a budget nothing would stop it


def test_lists_and_nesting_stop_in_time() -> None:
    spoken = chat("own")
    likes = dict.fromkeys(spoken.tokenizer.convert_tokens_to_ids(["{", "[", ","]), 30.0)
    for model in (Tree, create_model("Many", items=(list[Leaf], ...))):
        guide = json_answer(spoken, model.model_json_schema(), max_tokens=400)
        ids = said(spoken, [guide], 400, 0, likes)
        assert ids[-1] == spoken.end
        model.model_validate_json(spoken.parse(ids).text)


# A turn without a call


@pytest.mark.parametrize("family", FAMILIES)
def test_forbidden_calls(family: str) -> None:
    spoken = chat(family)
    form = spoken.call_form()
    markers = dict.fromkeys(spoken.call_markers.tokens, 30.0)
    whole = forced_calls(spoken, TOOLS, "now", max_tokens=MOST)
    call = said(spoken, [whole], MOST, 0)
    assert form.lead
    assert spoken.parse(call).calls

    class Insists:
        """Writes that call, whatever is allowed."""

        place = -1

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.place += 1
            liked = scores.clone()
            liked[0, call[min(self.place, len(call) - 1)]] += 60
            return liked

    assert spoken.parse(said(spoken, [Insists()], len(call), 0)).calls  # type: ignore[list-item]
    for seed in range(3):
        guide = forbidden_calls(spoken)
        assert guide is not None
        ids = said(spoken, [Insists(), guide], 80, seed, markers)  # type: ignore[list-item]
        assert not spoken.parse(ids).calls
        assert not markers.keys() & set(ids)


def test_a_marker_spelt_in_letters() -> None:
    spoken = chat("qwen3")
    spelling = [spoken.tokenizer.convert_tokens_to_ids(letter) for letter in '<tool_call>{"name":"now","arguments":{}}']
    guide, ids, seen = forbidden_calls(spoken), [0], []
    assert guide is not None
    for token in spelling:
        allowed = guide(torch.tensor([ids]), torch.zeros(1, len(spoken.tokenizer)))  # type: ignore[arg-type]
        if torch.isinf(allowed[0, token]):
            break
        ids.append(token)
        seen.append(token)
    assert decode_text(spoken.tokenizer, seen) == "<tool_call"


def test_other_text_is_free() -> None:
    spoken = chat("llama3")
    for text in ('Sure: {"name": 1}', '{"size": 2}', "  no call"):
        guide, ids = forbidden_calls(spoken), [0]
        assert guide is not None
        for token in [*spoken.tokenizer(text, add_special_tokens=False).input_ids, spoken.end]:
            allowed = guide(torch.tensor([ids]), torch.zeros(1, len(spoken.tokenizer)))  # type: ignore[arg-type]
            assert torch.isfinite(allowed[0, token]), (text, token)
            ids.append(token)


def test_choices() -> None:
    spoken = chat("own")
    assert guided(spoken, TOOLS, "auto", max_tokens=MOST) == []
    assert guided(families.chat("gemma"), [], "none", max_tokens=MOST) == []
    assert len(guided(spoken, TOOLS, "none", max_tokens=MOST)) == 1
    call = spoken.parse(said(spoken, guided(spoken, TOOLS, "now", max_tokens=MOST), MOST, 0)).call
    assert call is not None
    assert call.name == "now"


# Real models: windows that sleep in the middle of a call


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_shipped_model_calls_a_tool_that_it_never_saw(temperature: float) -> None:
    with SleepMemory(archive=":memory:") as memory, memory.session("t") as session:
        session.add("user", "Where is the key?")
        guide = forced_calls(chat("own"), TOOLS, "look_up", max_tokens=MOST)
        answer = session.generate(max_new_tokens=MOST, temperature=temperature, seed=1, logits_processor=[guide])
        assert answer.finished
        assert answer.call is not None
        assert answer.call.name == "look_up"
        LookUp.model_validate(answer.call.arguments)
        session.add("tool", "It is in the box.")
        schema = Leaf.model_json_schema()
        answer = session.generate(
            max_new_tokens=90,
            temperature=temperature,
            seed=1,
            logits_processor=[json_answer(chat("own"), schema, max_tokens=90)],
        )
        assert answer.finished
        Leaf.model_validate_json(answer.text)


def test_a_random_model_that_sleeps_within_a_call(opened: Open) -> None:
    memory = opened(window=48)
    with memory.session("t") as session:
        session.add("user", "Where is the key?")
        guide = forced_calls(chat("own"), [tool(Tree)], "made", max_tokens=300)
        answer = session.generate(max_new_tokens=300, temperature=1.0, seed=1, logits_processor=[guide])
        assert answer.finished
        assert answer.call is not None
        Tree.model_validate(answer.call.arguments)
        session.add("user", "And now?")
        assert (
            session.generate(
                max_new_tokens=20, seed=1, logits_processor=guided(chat("own"), TOOLS, "none", max_tokens=20)
            ).call
            is None
        )


# Tokenizers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_of_tokens_are_what_they_decode_to(family: str) -> None:
    spoken = chat(family)
    known = vocabulary_of(spoken)
    text = 'Zoë said: "the  key\n☂ 𝄞" {}[]\t%~ the'
    ids = spoken.tokenizer(text, add_special_tokens=False).input_ids
    assert b"".join(known.spelt[i] for i in ids).decode() == text == decode_text(spoken.tokenizer, ids)
    assert known.spelt[spoken.end] == b""
    assert spoken.end in known.controls


def test_a_vocabulary_is_made_once_and_goes_with_its_tokenizer() -> None:
    made = families.new_tokenizer(families.template("qwen3"), *families.FAMILIES["qwen3"])
    spoken = TemplateChat(made)
    assert vocabulary_of(spoken) is vocabulary_of(spoken.with_tools(TOOLS))
    kept = weakref.ref(made)
    made.add_tokens(["<new>"])
    assert len(vocabulary_of(spoken)) == len(made)
    del made, spoken
    gc.collect()
    assert kept() is None


def test_tokenizers_that_spell_no_bytes() -> None:
    with pytest.raises(InputError, match=r"decoder \(WordPiece\) does not say which bytes"):
        json_answer(TemplateChat(wordpiece()), max_tokens=MOST)


# Bad paths


def asked(schema: Any) -> Any:
    return json_answer(chat("own"), {"type": "object", "properties": {"a": schema}}, max_tokens=MOST)


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "hostess"}, "hostess"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "#/$defs/Missing"}, "Missing"),
        ({"$ref": "https://example.com/x.json"}, "example.com"),
        ({"type": "colour"}, "colour"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if"),
    ],
)
def test_parts_of_schemas_that_cannot_be_asked_for(schema: Any, part: str) -> None:
    with pytest.raises(InputError, match=rf"schema of the answer cannot be asked of a model.*{part}.*change that part"):
        asked(schema)
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}
    with pytest.raises(InputError, match="the tool 'f'"):
        forced_calls(chat("own"), [*TOOLS, {"type": "function", "function": function}], max_tokens=MOST)


@pytest.mark.parametrize("schema", [[1], "object", {"const": float("nan")}, {"const": {1}}])
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(InputError, match=r"schema of the answer is"):
        json_answer(chat("own"), schema, max_tokens=MOST)


@pytest.mark.parametrize(
    ("tools", "choice", "why"),
    [
        (TOOLS, "fly", r"tool_choice is 'fly'.*'look_up', 'now'"),
        (TOOLS, "auto", "tool_choice is 'auto'"),
        ([], "any", "tool_choice is 'any'"),
        ([*TOOLS, TOOLS[1]], "any", "two tools have the same name"),
        ([{"name": ""}], "any", "is no tool"),
        (["now"], "any", "is no tool"),
        ([{"function": {"parameters": {}}}], "any", "is no tool"),
    ],
)
def test_choices_that_cannot_be(tools: Any, choice: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        forced_calls(chat("own"), tools, choice, max_tokens=MOST)


@pytest.mark.parametrize("most", [0, -1, True, 2.5, "9"])
def test_budgets_that_are_none(most: Any) -> None:
    with pytest.raises(SettingsError, match=r"max_tokens is .*whole number of at least 1"):
        json_answer(chat("own"), max_tokens=most)


def test_formats_without_calls() -> None:
    with pytest.raises(UnsupportedModel, match="no call turn"):
        forced_calls(families.chat("gemma"), TOOLS, max_tokens=MOST)
    assert forbidden_calls(families.chat("gemma")) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "a b"}, "'a b' cannot stand in a tag"),
        ({"parameters": {"type": "object", "properties": {"a>": {"type": "string"}}}}, "'a>'.*cannot stand in a tag"),
        ({"parameters": {"type": "object", "required": ["x"], "properties": {}}}, "requires .*'x'"),
        (
            {"parameters": {"type": "object", "properties": {"a": {"type": "string", "format": "email"}}}},
            "format 'email'.*give it a pattern",
        ),
        (
            {"parameters": {"type": "object", "properties": {"a": {"enum": ["7", 7]}}, "required": ["a"]}},
            None,
        ),
        ({"parameters": {"type": "object", "properties": {"a": {"const": "</parameter>"}}}}, "told apart"),
    ],
)
def test_what_cannot_stand_in_tags(change: dict[str, Any], why: str | None) -> None:
    made = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}, **change}}
    spoken = chat("qwen3_5").with_tools([made])
    if why is None:  # of "7" and 7 the one that is read as it is meant
        call = spoken.parse(said(spoken, [forced_calls(spoken, [made], max_tokens=MOST)], MOST, 0)).call
        assert call is not None
        assert call.arguments == {"a": 7}
        return
    with pytest.raises(InputError, match=why):
        forced_calls(spoken, [made], max_tokens=MOST)


def test_one_turn_alone() -> None:
    spoken = chat("own")
    guide = forced_calls(spoken, TOOLS, "now", max_tokens=MOST)
    ids = [0, *said(spoken, [guide], MOST, 0)]
    scores: Any = torch.zeros(1, len(spoken.tokenizer))
    for again in ([0, 1], ids):
        with pytest.raises(SettingsError, match="make a new processor"):
            guide(torch.tensor([again]), scores)  # type: ignore[arg-type]
    fresh = forced_calls(spoken, TOOLS, "now", max_tokens=MOST)
    with pytest.raises(SettingsError, match="one turn at a time, not 2"):
        fresh(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, len(spoken.tokenizer)))  # type: ignore[arg-type]
    fresh(torch.tensor([[0]]), scores)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="the token 5 was written"):
        fresh(torch.tensor([[0, 5]]), scores)  # type: ignore[arg-type]


def test_scores_stay_as_they_are_where_they_are_allowed() -> None:
    spoken = chat("own")
    guide = json_answer(spoken, max_tokens=None)
    scores: Any = torch.randn(1, len(spoken.tokenizer) + 3)
    kept = scores.clone()
    masked = guide(torch.tensor([[0]]), scores)  # type: ignore[arg-type]
    allowed = torch.isfinite(masked)
    assert torch.equal(scores, kept)
    assert torch.equal(masked[allowed], scores[allowed])
    assert 0 < int(allowed.sum()) < 9
    assert not allowed[0, -3:].any()
