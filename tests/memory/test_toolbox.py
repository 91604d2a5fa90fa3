"""Tools: their schemas, what they are called with, what they return, and how they fail."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest

from agentsleep.chat import ToolCall
from agentsleep.errors import SettingsError, ToolError, ToolFailed, ToolTimeout, UnknownTool
from agentsleep.memory import Tool, Toolbox
from agentsleep.memory.schema import misfit


def find(
    person: str,
    limit: int = 3,
    share: float = 0.5,
    strict: bool = False,
    tags: list[str] | None = None,
    more: dict[str, int] = {},  # noqa: B006
    unit: Literal["km", "mi"] = "km",
    old: Optional[str] = None,  # noqa: UP045
) -> str:
    """Finds a person
    on the rota.

    Not told to the model.
    """
    return f"{person} {limit} {share} {strict} {tags} {more} {unit} {old}"


def test_a_schema_comes_from_type_hints_and_docstring() -> None:
    assert Tool(find).schema == {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds a person on the rota.",
            "parameters": {
                "type": "object",
                "properties": {
                    "person": {"type": "string"},
                    "limit": {"type": "integer"},
                    "share": {"type": "number"},
                    "strict": {"type": "boolean"},
                    "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                    "more": {"type": "object"},
                    "unit": {"enum": ["km", "mi"]},
                    "old": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["person"],
            },
        },
    }


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list[list[bool]], {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}),
        (Sequence[float], {"type": "array", "items": {"type": "number"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (dict, {"type": "object"}),
        (Mapping[str, str], {"type": "object"}),
        (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
        (Literal[1, "a", True, None], {"enum": [1, "a", True, None]}),
        (Any, {}),
    ],
)
def test_types_that_json_can_carry(hint: Any, expected: dict[str, Any]) -> None:
    def tool(value) -> str:  # type: ignore[no-untyped-def]
        return ""

    tool.__annotations__ = {"value": hint}
    assert Tool(tool).schema["function"]["parameters"]["properties"] == {"value": expected}


class Rota:
    """Knows who comes next."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, person: str) -> str:
        self.asked.append(person)
        return f"{person}!"

    def method(self, person: str) -> str:
        """Asks."""
        return f"{person}?"


def test_objects_and_methods_are_callables_too() -> None:
    rota = Rota()
    whole, method = Tool(rota), Tool(rota.method)
    assert (whole.name, method.name) == ("Rota", "method")
    assert whole.schema["function"]["description"] == "Knows who comes next."
    assert list(method.schema["function"]["parameters"]["properties"]) == ["person"]
    assert (whole({"person": "bob"}), method({"person": "bob"}), rota.asked) == ("bob!", "bob?", ["bob"])


def no_hint(person) -> str:  # type: ignore[no-untyped-def]
    return ""


def many(*people: str) -> str:
    return ""


def options(**people: str) -> str:
    return ""


def positional(person: str, /) -> str:
    return ""


def strange(person: bytes) -> str:
    return ""


def nested(people: list[set[str]]) -> str:
    return ""


def pair(people: tuple[str, int]) -> str:
    return ""


def unknown_hint(person: Nobody) -> str:  # type: ignore[name-defined]  # noqa: F821
    return ""


def real(value: Literal[b"x"]) -> str:
    return ""


async def later(person: str) -> str:
    return ""


class Later:
    async def __call__(self, person: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_hint, "'person' has no type hint"),
        (many, "'people' must be an ordinary named one"),
        (options, "'people' must be an ordinary named one"),
        (positional, "'person' must be an ordinary named one"),
        (strange, "'person' is of type <class 'bytes'>; use str"),
        (nested, "'people' is of type set"),
        (pair, "'people' is of type tuple"),
        (unknown_hint, "hints of tool unknown_hint cannot be read"),
        (real, "use str"),
        (later, "later is async"),
        (Later(), "Later is async"),
        (lambda: "", "a name that a model can write"),
        (functools.partial(find, "bob"), "has no type hint"),
        (print, "tool print"),
    ],
)
def test_what_a_model_cannot_call_is_refused(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Tool(function)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"max_chars": 0}])
def test_limits_are_above_zero(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"both must be above 0"):
        Tool(find, **settings)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"two tools have the same name among \['find', 'find'\]"):
        Toolbox([find, Tool(find)])


# Calls


def returning(value: Any, **settings: Any) -> Tool:
    def tool() -> Any:
        return value

    return Tool(tool, **settings)


def test_defaults_fill_what_is_not_given() -> None:
    assert Tool(find)({"person": "bob"}) == "bob 3 0.5 False None {} km None"
    assert Tool(find)({"person": "bob", "tags": ["a"], "unit": "mi", "old": None, "share": 1}).startswith("bob 3 1 ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "missing a required argument: 'person'"),
        ({"person": "bob", "colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"person": 3}, "person must be of type string, not 3"),
        ({"person": None}, "person must be of type string, not None"),
        ({"person": "bob", "limit": "3"}, "limit must be of type integer, not '3'"),
        ({"person": "bob", "limit": 2.5}, "limit must be of type integer, not 2.5"),
        ({"person": "bob", "limit": True}, "limit must be of type integer, not True"),
        ({"person": "bob", "strict": 1}, "strict must be of type boolean, not 1"),
        ({"person": "bob", "tags": ["a", 1]}, "tags holds 1, which must be of type string"),
        ({"person": "bob", "tags": "a"}, "tags must be of type array, not 'a' or must be of type null"),
        ({"person": "bob", "unit": "miles"}, "unit must be one of"),
        ({"person": "bob", "more": []}, "more must be of type object"),
    ],
)
def test_wrong_arguments_never_reach_the_tool(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolFailed, match=said) as caught:
        Tool(find)(arguments)
    assert str(caught.value).startswith("find(")


def test_numbers_that_look_alike_are_told_apart() -> None:
    assert misfit(1, {"enum": [1]}) is None
    assert misfit(True, {"enum": [1]}) is not None
    assert misfit(1.0, {"enum": [1]}) is not None
    assert misfit(1, {"type": "number"}) is None
    assert misfit(object(), {}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [("as it is", "as it is"), (3, "3"), (["é", 1], '["é", 1]'), ({"a": None}, '{"a": null}'), (True, "true")],
)
def test_what_is_no_str_is_told_as_json(value: Any, text: str) -> None:
    assert returning(value)({}) == text


def test_an_object_is_told_as_it_prints() -> None:
    assert returning([Toolbox])({}) == "[\"<class 'agentsleep.memory.toolbox.Toolbox'>\"]"


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize("value", [RING, {(1, 2): 3}, Mute(), "half \ud800 a pair", ["\udfff"]])
def test_what_is_no_text_is_an_error(value: Any) -> None:
    with pytest.raises(ToolFailed, match=r"tool\(\{\}\) returned a \w+ that is no text"):
        returning(value)({})


@pytest.mark.parametrize("value", ["", "  \n"])
def test_no_result_is_an_error(value: str) -> None:
    with pytest.raises(ToolFailed, match=r"returned no text; return what the model should read"):
        returning(value)({})


def test_nothing_is_told_as_null() -> None:
    assert returning(None)({}) == "null"


def test_a_megabyte_is_an_error_and_not_a_cut_text() -> None:
    with pytest.raises(ToolFailed, match=r"returned 1000000 characters, at most 20000 are read; return less, or raise"):
        returning("x" * 1_000_000)({})
    assert len(returning("x" * 1_000_000, max_chars=1_000_000)({})) == 1_000_000


def exits() -> str:
    raise SystemExit(3)


def stops() -> str:
    raise KeyboardInterrupt


def mute() -> str:
    raise MuteError


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def no_such() -> str:
    raise KeyError("no such person")


@pytest.mark.parametrize(
    ("function", "said", "cause"),
    [
        (no_such, r"no_such\(\{\}\) raised KeyError: 'no such person'", KeyError),
        (exits, r"exits\(\{\}\) raised SystemExit: 3", SystemExit),
        (stops, r"stops\(\{\}\) raised KeyboardInterrupt", KeyboardInterrupt),
        (mute, r"mute\(\{\}\) raised .*MuteError: <exception str\(\) failed>", MuteError),
    ],
)
def test_whatever_a_tool_raises_is_one_kind_of_error(function: Any, said: str, cause: type[BaseException]) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed, match=said) as caught:
        Tool(function)({})
    assert isinstance(caught.value.__cause__, cause)
    assert time.monotonic() - began < 20  # and not the 30 s of a tool that hangs


def test_a_tool_that_hangs_is_given_up() -> None:
    release = threading.Event()

    def hang(person: str) -> str:
        release.wait(60)
        return person

    try:
        with pytest.raises(ToolTimeout, match=r'hang\(\{"person": "bob"\}\) did not return within 0.05 s'):
            Tool(hang, timeout=0.05)({"person": "bob"})
    finally:
        release.set()
    assert Tool(hang, timeout=float("inf"))({"person": "bob"}) == "bob"


def test_a_long_call_is_not_repeated_in_full() -> None:
    with pytest.raises(ToolFailed) as caught:
        Tool(find)({"person": "bob", "limit": "x" * 10_000})
    assert len(str(caught.value)) < 500


def test_a_toolbox_runs_by_name() -> None:
    box = Toolbox([find, returning("fine")])
    assert [s["function"]["name"] for s in box.schemas] == ["find", "tool"]
    assert box.run(ToolCall("tool", {})) == "fine"
    with pytest.raises(UnknownTool, match=r"the model called 'fnd'; there are \['find', 'tool'\]"):
        box.run(ToolCall("fnd", {}))
    with pytest.raises(UnknownTool, match=r"there are no tools"):
        Toolbox().run(ToolCall("f", {}))
    assert all(issubclass(error, ToolError) for error in (UnknownTool, ToolFailed, ToolTimeout))
