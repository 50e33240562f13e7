"""S-expressions: found in a stream, and read as Scheme means them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.errors import UsageError
from buildvm_nb.guix.sexp import Quoted, Reader, Symbol, read_all, read_forms, write_form

TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=20)
FORMS = st.recursive(
    TEXTS | st.integers(-(10**9), 10**9) | st.sampled_from([Symbol("secrets"), Symbol("version")]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(FORMS), st.binary(max_size=20), st.integers(1, 7))
def test_the_end_of_a_form_is_found_whatever_the_pieces_and_what_follows(form, rest, size):
    text = write_form(form).encode()
    stream, reader = text + rest, Reader(most=1)
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size].decode("latin-1"))
    assert reader.places == [(0, len(text))]
    assert read_forms(text.decode()) == [form]


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ('(a ")" "\\")") ; )', [[Symbol("a"), ")", '")']]),
        ("(a #| ( |# b)", [[Symbol("a"), Symbol("b")]]),
        ('(a "#| ; ")', [[Symbol("a"), "#| ; "]]),
        ("(#t #f)", [[True, False]]),
        (
            "'a `(,b #:c)",
            [Quoted(Symbol("a")), Quoted([Quoted(Symbol("b"), ","), Symbol("#:c")], "`")],
        ),
        ("#~(a #$b)", [Quoted([Symbol("a"), Quoted(Symbol("b"), "#$")], "#~")]),
        ("(1 -2 1.5 . [x])", [[1, -2, 1.5, Symbol("."), [Symbol("x")]]]),
        ("t nil", [Symbol("t"), Symbol("nil")]),
        ('(#\\( #\\" b)', [[Symbol("#\\("), Symbol('#\\"'), Symbol("b")]]),
        ('"' + "(" * 300 + '"', ["(" * 300]),
    ],
)
def test_texts_comments_and_characters_are_no_parentheses(text, forms):
    assert read_forms(text) == forms


@pytest.mark.parametrize("text", ["(", ")", "(]", "'", "(')", "#| a", '"', "(a))", '("a)', '("\\'])
def test_what_does_not_match_is_refused(text):
    with pytest.raises(UsageError, match="do not match"):
        read_forms(text)


def test_each_expression_knows_where_it_was():
    text = "; a list\n(a (b) '(c))  'd "
    reader = read_all(text)
    assert [text[start:end] for start, end in reader.places] == ["(a (b) '(c))", "'d"]
    inner = reader.forms[0][1]
    assert text[inner.start : inner.end] == "(b)"


def test_what_does_not_match_is_told_with_its_line():
    with pytest.raises(UsageError, match="line 3"):
        read_forms("(a)\n(b\n))")


def test_a_word_without_an_end_is_not_waited_for():
    reader = Reader(most=1)
    reader.feed('("' + "x" * 10_000)
    with pytest.raises(UsageError, match="more than 16384 characters"):
        reader.feed("x" * 10_000)
