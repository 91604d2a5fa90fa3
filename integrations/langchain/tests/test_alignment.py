"""Where a list of messages continues what was heard: handle first, then ids, then what the messages say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.errors import AgentsleepError
from langchain_agentsleep import AmbiguousHistory
from langchain_agentsleep.alignment import NOTHING, Fit, Line, fit
from langchain_agentsleep.messages import Listed, Logged, key_of

LENGTH = 10  # tokens of a message


def line(said: str, *, ids: bool = True, slept: int = 0, name: str = "t", first: int = 0) -> Line:
    """A line whose messages say one letter each, in turn by the user and the assistant; ``slept`` of them slept on."""
    heard = [
        Logged(
            key=None if letter == "?" else key_of(_role(place), letter),
            id=f"{name}{place}" if ids else None,
            start=2 * place,
            stop=2 * place + 1,
            end=LENGTH * (place + 1),
        )
        for place, letter in enumerate(said, first)
    ]
    return Line(name, heard, slept * LENGTH)


def listed(said: str, *, first: int = 0, ids: bool = True, name: str = "t") -> list[Listed]:
    """A list of such messages, whose first one stands at ``first`` in the line; an upper case letter has another id."""
    return [
        Listed(_role(place), letter.lower(), id=f"{'new' if letter.isupper() else name}{place}" if ids else None)  # type: ignore[arg-type]
        for place, letter in enumerate(said, first)
    ]


def _role(place: int) -> str:
    return "assistant" if place % 2 else "user"


def found(lines: Line | Sequence[Line], said: list[Listed], count: int | None = None) -> Fit:
    """Where it fits, with a handle to the first line at ``count`` messages."""
    return fit([lines] if isinstance(lines, Line) else lines, said, None if count is None else (0, count))


@pytest.mark.parametrize("count", [None, 2, 4])
@pytest.mark.parametrize("ids", [True, False])
def test_a_list_that_extends_the_log_goes_on(ids: bool, count: int | None) -> None:
    assert found(line("abcd", ids=ids), listed("abcdE", ids=ids), count) == Fit(0, 0, 4)


@pytest.mark.parametrize("ids", [True, False])
def test_what_is_said_again_is_new(ids: bool) -> None:
    assert found(line("aaaa", ids=ids), listed("aaaaA", ids=ids)) == Fit(0, 0, 4)


@pytest.mark.parametrize("count", [None, 4])
@pytest.mark.parametrize("ids", [True, False])
def test_the_head_may_be_gone_once_it_is_consolidated(ids: bool, count: int | None) -> None:
    assert found(line("abcd", ids=ids, slept=2), listed("cdE", first=2, ids=ids), count) == Fit(0, 2, 2)


def test_by_content_alone_only_what_is_consolidated_may_be_gone() -> None:
    heard = line("abcd", ids=False, slept=1)
    assert found(heard, listed("bcd", first=1, ids=False)) == Fit(0, 1, 3)
    assert found(heard, listed("cd", first=2, ids=False)) == NOTHING
    assert found(line("abcd", slept=1), listed("cd", first=2)) == Fit(0, 2, 2), "ids tell"


def test_half_a_message_is_not_consolidated() -> None:
    heard = line("abcd", ids=False)
    assert [Line("t", heard.said, slept).consolidated for slept in (0, 9, 10, 19, 40)] == [0, 0, 1, 1, 4]


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("said", ["abxd", "abx", "abX", "abxdE"])
def test_an_edited_message_parts_from_the_log(said: str, ids: bool) -> None:
    assert found(line("abcd", ids=ids), listed(said, ids=ids)) == Fit(0, 0, 2)
    assert found(line("abcd", ids=ids), listed(said, ids=ids), 4) == Fit(0, 0, 2), "the handle is older than the edit"


@pytest.mark.parametrize("ids", [True, False])
def test_it_may_part_after_the_head_is_gone(ids: bool) -> None:
    heard = line("abcdef", ids=ids, slept=3)
    assert found(heard, listed("cdX", first=2, ids=ids)) == Fit(0, 2, 2)
    assert found(heard, listed("cdX", first=2, ids=ids), 6) == Fit(0, 2, 2)


def test_the_first_message_that_is_left_may_be_the_edited_one() -> None:
    heard = line("abcdef", slept=2)
    assert found(heard, listed("xdef", first=2)) == Fit(0, 2, 0), "by its own id"
    assert found(heard, listed("Xdef", first=2)) == Fit(0, 2, 0), "by those behind it"
    assert found(heard, listed("xdef", first=2), 6) == Fit(0, 2, 0)
    assert found(heard, listed("xbcd")) == NOTHING, "nothing stands before it"
    assert found(heard, listed("Xef", first=3)) == NOTHING, "in place of what is not consolidated: a summary"


def test_a_message_is_found_by_its_id_where_its_text_is_not_known() -> None:
    assert found(line("a?c"), listed("abcD")) == Fit(0, 0, 3)
    assert found(line("a?c"), listed("aBcD")) == Fit(0, 0, 1)
    assert found(line("a?c", ids=False), listed("abc", ids=False)) == Fit(0, 0, 1)


def test_ids_that_were_given_anew_say_nothing() -> None:
    assert found(line("abcd"), listed("ABCDE")) == Fit(0, 0, 4)
    assert found(line("abcd"), listed("ABCDE"), 4) == Fit(0, 0, 4)
    assert found(line("abcd"), listed("AbCdE")) == Fit(0, 0, 4), "those of the answers are kept"


def test_an_id_tells_apart_what_says_the_same() -> None:
    heard = line("abab", slept=4)
    assert found(heard, listed("abC", first=2)) == Fit(0, 2, 2)
    assert found(heard, listed("abC")) == Fit(0, 0, 2)


# Handles


def test_behind_a_handle_everything_may_be_new() -> None:
    assert found(line("abcd", slept=4), listed("X"), 4) == Fit(0, 4, 0)
    assert found(line("abcd", slept=4), listed("A"), 4) == Fit(0, 4, 0), "it is another message that says the same"
    assert found(line("abcd", slept=2), listed("x", ids=False), 4) == Fit(0, 4, 0)


def test_a_handle_is_trusted_before_content() -> None:
    heard = line("abab", ids=False, slept=4)
    with pytest.raises(AmbiguousHistory):
        found(heard, listed("abx", ids=False))
    assert found(heard, listed("abx", ids=False), 4) == Fit(0, 2, 2)


def test_a_handle_of_an_earlier_place_is_where_the_list_goes_on() -> None:
    heard = line("abcdef", ids=False, slept=6)
    assert found(heard, listed("abX", ids=False), 2) == Fit(0, 0, 2)
    assert found(heard, listed("bX", first=1, ids=False), 2) == Fit(0, 1, 1)
    assert found(heard, listed("X", ids=False), 2) == Fit(0, 2, 0)
    assert found(heard, listed("abcd", ids=False), 2) == Fit(0, 0, 4), "what was said since then is heard already"


def test_a_handle_that_counts_more_than_there_is_means_all() -> None:
    assert found(line("ab", slept=2), listed("X"), 9) == Fit(0, 2, 0)


def test_what_is_not_consolidated_is_not_gone() -> None:
    assert found(line("abab", ids=False), listed("ax", ids=False), 4) == Fit(0, 0, 1), "not behind the end"
    assert found(line("abab", ids=False, slept=1), listed("ax", ids=False), 4) == Fit(0, 0, 1), "nor at the second a"


def test_with_a_handle_too_there_may_be_two_places() -> None:
    with pytest.raises(AmbiguousHistory, match=r"message 0 of t \(event 0\), and at the end, behind message 3 of t"):
        found(line("abcd", ids=False, slept=4), listed("ax", ids=False), 4)
    with pytest.raises(AmbiguousHistory, match=r"message 0 of t \(event 0\), and at message 2 of t \(event 4\)"):
        found(line("abab", ids=False, slept=2), listed("ax", ids=False), 4)


# Content


def test_what_stays_ambiguous_names_both_places_and_is_a_typed_error() -> None:
    with pytest.raises(AmbiguousHistory) as raised:
        found(line("abab", ids=False, slept=2), listed("abx", ids=False))
    assert isinstance(raised.value, AgentsleepError)
    assert "2 places: at message 0 of t (event 0), and at message 2 of t (event 4)" in str(raised.value)
    assert "ids" in str(raised.value), "it tells what to do"


def test_two_lines_of_the_same_depth_are_ambiguous_where_they_say_something_else() -> None:
    lines = [line("zabc", ids=False, slept=1), line("yabc", ids=False, slept=1, name="u")]
    with pytest.raises(AmbiguousHistory, match=r"of t \(event 2\), and at message 1 of u \(event 2\)"):
        found(lines, listed("abX", first=1, ids=False))


def test_the_deepest_place_wins() -> None:
    heard = line("abaxab", ids=False, slept=6)
    assert found(heard, listed("axy", first=2, ids=False)) == Fit(0, 2, 2)


@pytest.mark.parametrize("ids", [True, False])
def test_of_several_lines_the_one_that_goes_furthest_is_continued(ids: bool) -> None:
    lines = [line("abcd", ids=ids), line("abxy", ids=ids), line("ab", ids=ids)]
    assert found(lines, listed("abxyZ", ids=ids)) == Fit(1, 0, 4)
    assert found(lines, listed("abcdZ", ids=ids)) == Fit(0, 0, 4)
    assert found(lines, listed("abZ", ids=ids)) == Fit(2, 0, 2), "of two that part here, the one that ends here"


def test_of_two_lines_that_say_the_same_the_later_one_is_continued() -> None:
    lines = [line("abcd", ids=False, slept=2), line("abcd", ids=False, slept=2, name="u")]
    assert found(lines, listed("abcdE", ids=False)) == Fit(1, 0, 4)
    assert found(lines, listed("cX", first=2, ids=False)) == Fit(1, 2, 1)


@pytest.mark.parametrize("count", [None, 0])
def test_what_fits_nowhere_is_read_from_the_beginning(count: int | None) -> None:
    assert found([], listed("ab")) == NOTHING
    assert found(line("abcd"), listed("XYZ")) == NOTHING
    empty = found(line(""), listed("ab"), count)
    assert (empty.start, empty.length) == (0, 0)


# Whatever is said


@given(
    said=st.text("ab", min_size=1, max_size=8),
    more=st.text("ab", max_size=4),
    slept=st.integers(0, 8),
    gone=st.integers(0, 8),
    handle=st.booleans(),
)
def test_with_ids_a_list_that_goes_on_is_found_whatever_it_repeats(
    said: str, more: str, slept: int, gone: int, handle: bool
) -> None:
    heard = line(said, slept=min(slept, len(said)))
    gone = min(gone, len(said) - (not handle))  # without a handle, something has to be left to know it by
    messages = listed(said[gone:], first=gone) + listed(more.upper(), first=len(said))
    assert found(heard, messages, len(said) if handle else None).stands == len(said)


@given(said=st.text("ab", min_size=1, max_size=8), place=st.integers(0, 7), more=st.text("ab", max_size=3))
def test_with_ids_an_edit_parts_right_before_it(said: str, place: int, more: str) -> None:
    place = min(place, len(said) - 1)
    messages = listed(said[:place] + "x" + said[place + 1 :]) + listed(more.upper(), first=len(said))
    fitting = found(line(said), messages, len(said))
    assert fitting.stands == place
    assert (fitting.line is None) == (place == 0)


@given(said=st.text("ab", min_size=1, max_size=8), other=st.text("ab", max_size=10), slept=st.integers(0, 8))
def test_by_content_a_fit_never_claims_what_was_not_said(said: str, other: str, slept: int) -> None:
    heard, messages = line(said, ids=False, slept=slept), listed(other, ids=False)
    try:
        one = found(heard, messages)
    except AmbiguousHistory:
        assert slept
        return
    assert one.start <= heard.consolidated
    pairs = zip(heard.said[one.start : one.stands], messages, strict=False)
    assert all(logged.key == message.key for logged, message in pairs)
    assert one.length <= len(messages)
    assert one.stands <= len(heard.said)
