"""Stop strings: where the text is cut into pieces makes no difference, and what may be a stop string is held back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halfbyte.engine.stop_strings import StopStrings


def run(stops, pieces, *, include=False):
    matcher = StopStrings(stops, include=include)
    out = []
    for piece in pieces:
        text, found = matcher.push(piece)
        out.append(text)
        if found is not None:
            return out, found
    return [*out, matcher.flush()], None


def naive(stops, text, *, include):
    """The shortest beginning of the text that ends with a stop string, without the longest one that it ends with."""
    for end in range(len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, None


letters = st.text("ab€", max_size=12)


@given(
    st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(letters, max_size=8),
    st.booleans(),
)
def test_equal_to_looking_at_the_whole_text(stops, pieces, include):
    out, found = run(tuple(stops), pieces, include=include)
    assert ("".join(out), found) == naive(stops, "".join(pieces), include=include)


@given(st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(letters, max_size=8))
def test_holds_back_no_more_than_it_must(stops, pieces):
    matcher, text, shown = StopStrings(tuple(stops)), "", ""
    for piece in pieces:
        released, found = matcher.push(piece)
        if found is not None:
            return
        text, shown = text + piece, shown + released
        held = text[len(shown) :]
        assert held == "" or any(s.startswith(held) for s in stops)


def test_a_stop_string_across_pieces_is_never_shown():
    assert run(("\nUSER:",), ["Paris.", "\n", "US", "ER", ":", " more"]) == (["Paris.", "", "", "", ""], "\nUSER:")


def test_what_only_looked_like_one_comes_out():
    assert run(("\nUSER:",), ["a\nUS", "B"]) == (["a", "\nUSB", ""], None)


def test_included_when_asked_for():
    assert run(("END",), ["xE", "ND tail"], include=True) == (["x", "END"], "END")


def test_without_stop_strings_nothing_is_held():
    assert run((), ["a", "b"]) == (["a", "b", ""], None)
