from __future__ import annotations

import dataclasses

import pytest

import agentsleep.archive
from agentsleep.archive import NewEvent, Scope
from agentsleep.archive.codec import normal_json, pack_tokens, unpack_tokens
from agentsleep.errors import InputError


def test_exports_are_sorted_and_exist() -> None:
    names = agentsleep.archive.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(agentsleep.archive, name) for name in names)


@pytest.mark.parametrize("field", ["tenant", "user", "thread"])
@pytest.mark.parametrize(
    ("value", "words"),
    [("", "empty"), ("x" * 256, "256 characters"), ("a\0b", "NUL"), ("a\ud800", "surrogate"), (7, "must be a str")],
)
def test_scope_refuses_what_is_no_name(field: str, value: object, words: str) -> None:
    ids: dict[str, object] = {"tenant": "acme", "user": "ada", "thread": "1", field: value}
    with pytest.raises(InputError, match=words) as caught:
        Scope(**ids)  # type: ignore[arg-type]
    assert f"scope.{field}" in str(caught.value)


def test_values_are_frozen_and_keyword_only() -> None:
    scope = Scope(tenant="acme", user="ada", thread="1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        scope.user = "bob"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Scope("acme", "ada", "1")  # type: ignore[misc]


def test_token_ids_may_be_any_ints_in_any_sequence() -> None:
    class Index:
        def __index__(self) -> int:
            return 5

    event = NewEvent(kind="tokens", token_ids=[0, Index(), 2**32 - 1])  # type: ignore[arg-type]
    assert event.token_ids == (0, 5, 2**32 - 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "nap"}, "'nap'"),
        ({"kind": "tokens", "token_ids": (1, -1)}, "token id -1"),
        ({"kind": "tokens", "token_ids": (2**32,)}, "token id 4294967296"),
        ({"kind": "tokens", "token_ids": (1.5,)}, "must be ints"),
        ({"kind": "sleep", "token_ids": (1, 2)}, "carries 2 tokens"),
        ({"kind": "tokens", "role": ""}, "role is empty"),
        ({"kind": "tokens", "text": "a\udcff"}, "surrogate"),
        ({"kind": "tokens", "text": b"a"}, "bytes"),
    ],
)
def test_new_event_refuses(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        NewEvent(**fields)  # type: ignore[arg-type]


def test_json_comes_back_as_it_will_be_read() -> None:
    assert normal_json("x", {"b": (1, 2), "a": {"c": None}}) == {"a": {"c": None}, "b": [1, 2]}


@pytest.mark.parametrize(
    "value",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": {1, 2}}, {"x": object()}, {"x": "\ud800"}, {1: "x"}, [1], None],
)
def test_json_refuses(value: object) -> None:
    with pytest.raises(InputError, match="metrics"):
        normal_json("metrics", value)  # type: ignore[arg-type]


def test_json_refuses_a_circle() -> None:
    circle: dict[str, object] = {}
    circle["again"] = circle
    with pytest.raises(InputError, match="settings"):
        normal_json("settings", circle)  # type: ignore[arg-type]


def test_tokens_are_four_bytes_little_endian() -> None:
    assert pack_tokens((1, 2**32 - 1)) == b"\x01\0\0\0\xff\xff\xff\xff"
    assert unpack_tokens(pack_tokens((3, 0, 151_643))) == (3, 0, 151_643)
    assert unpack_tokens(b"") == ()
