"""S-expressions: found in a stream, and read as Scheme means them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.sexp import FormScanner, Symbol, read_forms, write_form

TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=20)
FORMS = st.recursive(
    TEXTS | st.integers(-(10**9), 10**9) | st.sampled_from([Symbol("secrets"), Symbol("version")]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(FORMS), st.binary(max_size=20), st.integers(1, 7))
def test_the_end_of_a_form_is_found_whatever_the_pieces_and_what_follows(form, rest, size):
    text = write_form(form).encode()
    stream, scanner, taken = text + rest, FormScanner(), 0
    for start in range(0, len(stream), size):
        end = scanner.feed(stream[start : start + size])
        taken += size if end is None else end
        if end is not None:
            break
    assert stream[:taken] == text
    assert read_forms(text.decode()) == [form]


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ('(a ")" "\\")") ; )', [[Symbol("a"), ")", '")']]),
        ("(a #| ( |# b)", [[Symbol("a"), Symbol("b")]]),
        ('(a "#| ; ")', [[Symbol("a"), "#| ; "]]),
        ("(#t #f)", [[True, False]]),
        ("t nil", [Symbol("t"), Symbol("nil")]),
        ('(#\\( #\\" b)', [[Symbol("#("), Symbol('#"'), Symbol("b")]]),
        ('"' + "(" * 300 + '"', ["(" * 300]),
    ],
)
def test_texts_comments_and_characters_are_no_parentheses(text, forms):
    assert read_forms(text) == forms


@pytest.mark.parametrize("text", ["(", ")", '"', "(a))", '("a)', '("\\', "'"])
def test_what_does_not_match_is_refused(text):
    with pytest.raises(UsageError, match="do not match"):
        read_forms(text)
