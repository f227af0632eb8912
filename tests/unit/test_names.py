"""What a key component is called as a file, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicfs import names
from mimicfs.errors import PosixError
from mimicfs.names import Component, component, file_name

# Few characters, so that escapes and what looks like them come up often.
colliding = st.lists(
    st.sampled_from(
        [
            "%",
            "file",
            "name",
            "nul",
            "empty",
            "dot",
            "object",
            ".",
            ".sync",
            "\0",
            "a",
            "25",
            "%FF",
            "raw",
        ]
    ),
    max_size=6,
).map("".join)
any_text = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=40)
components = st.one_of(colliding, any_text)


@pytest.mark.parametrize(
    ("text", "beside", "shown"),
    [
        ("photo.jpg", False, b"photo.jpg"),
        ("50%", False, b"50%"),
        ("a%2Fb", False, b"a%2Fb"),
        (" trailing ", False, b" trailing "),
        ("line\nfeed\x01", False, b"line\nfeed\x01"),
        ("é", False, b"\xc3\xa9"),
        ("e\u0301", False, b"e\xcc\x81"),
        ("", False, b"%empty"),
        ("", True, b"%object"),
        (".", False, b"%dot"),
        ("..", False, b"%dotdot"),
        ("a", True, b"a%file"),
        (".", True, b"%dot%file"),
        ("a\0b%", False, b"a%00b%25%nul"),
        (".sync", False, b".sync%name"),
        ("x%file", False, b"x%file%name"),
        ("%empty", False, b"%empty%name"),
        ("caf%E9 5%25%raw", False, b"caf\xe9 5%"),
        ("caf%E9%raw", True, b"caf\xe9%file"),
        ("caf%c3%raw", False, b"caf%c3%raw"),
        ("caf%C3%A9%raw", False, b"caf%C3%A9%raw"),
        ("%FF%25file%raw", False, b"%FF%25file%raw"),
    ],
)
def test_a_component_has_one_name(text, beside, shown):
    assert file_name(text, beside) == shown
    assert component(shown) == Component(text, beside)


@given(components, st.booleans())
def test_every_component_comes_back_from_its_name(text, beside):
    assert component(file_name(text, beside)) == Component(text, beside)


@given(components, st.booleans())
def test_no_name_is_one_that_the_kernel_cannot_carry(text, beside):
    name = file_name(text, beside)
    assert name not in (b"", b".", b"..", names.CONTROL)
    assert b"/" not in name
    assert b"\0" not in name


@given(st.tuples(components, st.booleans()), st.tuples(components, st.booleans()))
def test_two_components_never_share_a_name(one, other):
    assert (file_name(*one) == file_name(*other)) == (one == other)


@given(st.binary(min_size=1, max_size=20))
def test_a_name_is_the_name_of_its_component_or_of_nothing(name):
    try:
        found = component(name)
    except PosixError:
        return
    if name not in (b".", b"..", names.CONTROL) and b"/" not in name and b"\0" not in name:
        assert file_name(*found) == name


@pytest.mark.parametrize("name", [b"x%name", b"%file", b"%nul", b"a%empty%file%file"])
def test_an_escape_of_nothing_is_no_name(name):
    with pytest.raises(PosixError) as raised:
        component(name)
    assert raised.value.errno == 22


@given(st.binary(min_size=1, max_size=20))
def test_every_name_that_is_not_utf8_is_a_name(name):
    bad = name.replace(b"/", b"").replace(b"\0", b"") + b"\xff"
    assert file_name(*component(bad)) == bad
    assert component(bad).text.encode()


@pytest.mark.parametrize("name", [b"caf%E9%raw", b"\xff%file%file"])
def test_the_coded_form_of_a_name_that_is_not_utf8_is_no_name(name):
    with pytest.raises(PosixError) as raised:
        component(name)
    assert raised.value.errno == 22
