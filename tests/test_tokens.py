from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agentsleep import tokens
from agentsleep.errors import InputError
from agentsleep.tasks import rota
from agentsleep.tokens import SPECIAL_TOKENS, build_tokenizer, decode_text, encode_text

TOKENIZER = rota.tokenizer()
MARKERS = {TOKENIZER.convert_tokens_to_ids(marker) for marker in SPECIAL_TOKENS}
PIECES = st.sampled_from([*SPECIAL_TOKENS, *rota.vocabulary(), "é", "\u0301", "\u200d", "\0", "🜁", "漢", "\n", "  "])


def pieces(text: str) -> list[str]:
    return [decode_text(TOKENIZER, [i]) for i in encode_text(TOKENIZER, text)]


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = encode_text(TOKENIZER, text)
    assert decode_text(TOKENIZER, ids) == text
    assert not MARKERS.intersection(ids)
    assert len(ids) <= len(text.encode())


@given(st.lists(PIECES).map("".join))
def test_words_markers_and_odd_characters_come_back(text: str) -> None:
    ids = encode_text(TOKENIZER, text)
    assert decode_text(TOKENIZER, ids) == text
    assert not MARKERS.intersection(ids)


@pytest.mark.parametrize("marker", SPECIAL_TOKENS)
def test_a_marker_inside_a_text_stays_text(marker: str) -> None:
    for text in (marker, f" {marker}", f"bob{marker}alice", marker * 2, marker[:-1], f"{marker} hands over to"):
        ids = encode_text(TOKENIZER, text)
        assert not MARKERS.intersection(ids)
        assert decode_text(TOKENIZER, ids) == text
    assert TOKENIZER(marker, add_special_tokens=False).input_ids == [TOKENIZER.convert_tokens_to_ids(marker)]


def test_markers_are_known_by_their_place() -> None:
    assert SPECIAL_TOKENS == (
        tokens.PAD,
        tokens.END,
        tokens.SYSTEM,
        tokens.TOOLS,
        tokens.USER,
        tokens.ASSISTANT,
        tokens.TOOL,
        tokens.CALL,
    )
    assert len(MARKERS) == len(SPECIAL_TOKENS)
    assert set(range(len(TOKENIZER) - 8, len(TOKENIZER))) == MARKERS
    assert TOKENIZER.pad_token == tokens.PAD
    assert TOKENIZER.eos_token == tokens.END


def test_the_vocabulary_is_bytes_then_pieces_then_markers() -> None:
    assert len(TOKENIZER) == 256 + len(set(rota.vocabulary())) + 8
    for byte in range(256):
        assert len(TOKENIZER.convert_ids_to_tokens(byte)) == 1
    for i, piece in enumerate(dict.fromkeys(rota.vocabulary())):
        assert decode_text(TOKENIZER, [256 + i]) == piece


@pytest.mark.parametrize("name", rota.NAMES)
def test_every_name_is_one_token_wherever_it_stands(name: str) -> None:
    assert pieces(f" {name}") == [f" {name}"]
    assert pieces(name) == [name]
    assert pieces(f" {rota.fact(name, name)}") == [f" {name}", " hands over to", f" {name}", " ."]
    assert pieces(f" {rota.request(name)}") == [" look up", f" {name}", " ."]


def test_the_closed_english_is_cut_as_it_was_made() -> None:
    for depth in range(1, rota.MAX_DEPTH + 1):
        assert pieces(f" {rota.question(depth, 'bob')}") == [" who comes", f" {depth}", " after", " bob", " ?"]
    assert pieces(f" {rota.SYSTEM}") == [" you", " watch", " the", " rota", " ."]
    for reply in (rota.NOTED, rota.UNKNOWN, rota.NO_TOOL):
        assert pieces(f" {reply}") == [f" {reply}"]
    for talk in rota.SMALL_TALK:
        assert pieces(f" {talk}") == [f" {word}" for word in talk.split()]
    call = '{"name": "look_up", "arguments": {"person": "bob"}}'
    assert pieces(call) == ['{"name": "look_up", "arguments": {"person": "', "bob", '"}}']
    assert pieces(" look_up(person)") == [" look_up", "(person)"]


def test_a_text_is_cut_into_the_fewest_tokens() -> None:
    tokenizer = build_tokenizer(["ab", "abc", "cde", "de"], "")

    def cut(text: str) -> list[str]:
        return [decode_text(tokenizer, [i]) for i in encode_text(tokenizer, text)]

    assert cut("abcde") in (["abc", "de"], ["ab", "cde"])
    assert cut("abde") == ["ab", "de"]
    assert cut("xabc") == ["x", "abc"]
    assert cut("ä") == ["\ufffd", "\ufffd"]  # one token a byte


def test_pieces_that_occur_twice_or_are_bytes_count_once() -> None:
    assert len(build_tokenizer(["a", "ab", "ab"], "")) == 256 + 1 + 8


def test_a_text_without_utf8_form_is_refused() -> None:
    with pytest.raises(InputError, match="no UTF-8 form"):
        encode_text(TOKENIZER, "half a pair \ud83d .")


def test_threads_that_share_a_tokenizer_do_not_disturb_each_other() -> None:
    """The switch that keeps markers text belongs to the tokenizer: it must be as before, and no marker may slip in."""
    text = " <|end|> bob hands over to alice ." * 4
    wanted = encode_text(TOKENIZER, text)
    found: list[list[int]] = []

    def work() -> None:
        found.extend(encode_text(TOKENIZER, text) for _ in range(300))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1200
    assert all(ids == wanted for ids in found)
    assert not TOKENIZER.backend_tokenizer.encode_special_tokens


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    assert back.get_vocab() == TOKENIZER.get_vocab()
    assert back.chat_template == TOKENIZER.chat_template
    assert (back.pad_token, back.eos_token) == (tokens.PAD, tokens.END)
    for text in ("bob hands over to alice .", " who comes 3 after zoe ?", "né <|end|>\n\0 漢  x", *rota.SMALL_TALK[:5]):
        assert encode_text(back, text) == encode_text(TOKENIZER, text)
        assert decode_text(back, encode_text(back, text)) == text
    marked = "<|user|> look up bob .<|end|><|assistant|>"
    assert back(marked, add_special_tokens=False).input_ids == TOKENIZER(marked, add_special_tokens=False).input_ids
    assert decode_text(back, back(marked, add_special_tokens=False).input_ids) == marked
