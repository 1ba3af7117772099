"""What a terminal would obey is spelled."""

from __future__ import annotations

import unicodedata

from tuner.host.terminal import one_line, printable


def test_no_control_reaches_a_terminal() -> None:
    every = "".join(map(chr, range(0x110000)))
    left = {
        character
        for character in printable(every)
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in {*"LRE RLE LRO RLO PDF LRI RLI FSI PDI".split()}
    }
    assert left == {"\n", "\t"}


def test_spelled_as_python_does() -> None:
    assert printable("a\x1b[31m\u202eb\x9b\ud800é\n") == r"a\x1b[31m\u202eb\x9b\ud800é" + "\n"
    assert printable("10\xa0µs 😀") == "10\xa0µs 😀"
    assert one_line("a\nb\r") == r"a\nb\r"
