"""The name of a key's component as a file, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicfs.errors import PosixError
from mimicfs.vfs import names
from mimicfs.vfs.names import Component, component, file_name

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
# About as long as a key can be, so that no escaped form fits.
long = st.tuples(
    colliding, st.integers(0, 1024), st.sampled_from(["a", "%", "\0", "é"]), colliding
).map(lambda parts: (parts[0] + parts[2] * parts[1])[: 1024 - len(parts[3].encode())] + parts[3])
components = st.one_of(colliding, any_text, long).filter(lambda text: len(text.encode()) <= 1024)
# What is beside a directory of its name is shorter than that one's key, which ends in "/".
shown = st.tuples(components, st.booleans()).map(
    lambda c: (c[0], c[1] and len(c[0].encode()) < 1024)
)


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


@given(shown)
def test_every_component_comes_back_from_its_name(found):
    assert component(file_name(*found)) == Component(*found)


@given(shown)
def test_no_name_is_one_that_the_kernel_cannot_carry(found):
    name = file_name(*found)
    assert len(name) <= names.NAME_MAX
    assert name not in (b"", b".", b"..", names.CONTROL)
    assert b"/" not in name
    assert b"\0" not in name


@given(shown, shown)
def test_two_components_never_share_a_name(one, other):
    assert (file_name(*one) == file_name(*other)) == (one == other)


# Components that read as a long name, or nearly.
long_bytes = st.tuples(
    st.binary(max_size=3),
    st.integers(900, 1024),
    st.sampled_from([b"a", b"\xfe", b"%"]),
    st.lists(st.sampled_from([b"\xfc", b"\xfd", b"\xfe", b"%file", b"file", b"a"]), max_size=3),
).map(lambda parts: (parts[0] + parts[2] * parts[1])[: 1024 - 15] + b"".join(parts[3]))


@given(st.one_of(st.binary(min_size=1, max_size=20), long_bytes))
def test_a_name_is_the_name_of_its_component_or_of_nothing(name):
    try:
        found = component(name)
    except PosixError:
        return
    if name not in (b".", b"..", names.CONTROL) and b"/" not in name and b"\0" not in name:
        assert file_name(*found) == name


@pytest.mark.parametrize(
    ("text", "beside", "shown"),
    [
        ("k" * 1023, True, b"k" * 1023 + b"\xfc"),
        ("k" * 1020, True, b"k" * 1020 + b"\xfc\xfc"),
        ("k" * 1019, True, b"k" * 1019 + b"%file"),
        ("\0" * 1024, False, b"\xfe" * 1024),
        ("k" * 1018 + "%file", False, b"k" * 1018 + b"\xfdfile"),
        ("k" * 1014 + "%name", True, b"k" * 1014 + b"\xfdname\xfc\xfc"),
    ],
)
def test_where_the_escape_is_too_long_there_is_a_shorter_one(text, beside, shown):
    assert file_name(text, beside) == shown
    assert component(shown) == Component(text, beside)


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


@pytest.mark.slow
@given(shown, st.sampled_from([None, ".versions", ".versions%name", ".sync"]))
def test_a_reserved_name_is_shown_by_its_escape(found, other):
    text, beside = (other, found[1]) if other is not None else found
    name = file_name(text, beside, names.WITH_VERSIONS)
    assert name not in (names.CONTROL, names.VERSIONS)
    assert component(name, names.WITH_VERSIONS) == Component(text, beside)
    if text != ".versions":
        assert name == file_name(text, beside)
