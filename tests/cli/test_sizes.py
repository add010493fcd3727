"""Sizes as people write them."""

import pytest
import typer

from halfbyte.cli.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000),
        ("500MB", 500_000_000),
        ("1.5 gb", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        ("1kB", 1000),
        ("1 KiB", 1024),
        ("12345", 12345),
        ("7B", 7),
        (99, 99),
    ],
)
def test_reads_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-1GB", "five", "5GB!", "1e9", "0", "0.1B", "٣٣GBx"])
def test_refuses_what_is_not_a_size(text):
    with pytest.raises(typer.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (3_889_019_904, "3.89 GB"), (2e13, "20.00 TB")]
)
def test_shows_sizes(size, text):
    assert show_size(size) == text
