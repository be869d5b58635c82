"""Amounts as text: exact or refused, against decimal arithmetic and against long lists of what people send."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.schema.money import (
    AMOUNT_MAX,
    DECIMALS_MAX,
    AmountFault,
    Asset,
    InvalidAmount,
    format_amount,
    parse_amount,
)

decimals_of_assets = st.integers(0, DECIMALS_MAX)


@given(st.integers(1, AMOUNT_MAX), decimals_of_assets)
def test_what_is_printed_is_parsed_back(minor_units: int, decimals: int) -> None:
    assert parse_amount(format_amount(minor_units, decimals), decimals) == minor_units


@given(st.integers(-(2**130), 2**130), decimals_of_assets)
def test_what_is_printed_is_the_exact_value_with_all_decimals(minor_units: int, decimals: int) -> None:
    text = format_amount(minor_units, decimals)
    with localcontext() as context:
        context.prec = 100
        assert Decimal(text) == Decimal(minor_units) / 10**decimals
    assert len(text.partition(".")[2]) == decimals
    assert text.startswith("-") == (minor_units < 0)


@given(st.integers(0, 10**22), st.integers(0, 10**19), st.integers(0, 20), decimals_of_assets)
def test_parsing_agrees_with_decimal_arithmetic(whole: int, fraction: int, width: int, decimals: int) -> None:
    digits = f"{fraction:0{width}d}"[:width]
    text = f"{whole}.{digits}" if digits else str(whole)
    with localcontext() as context:
        context.prec = 100
        minor_units = Decimal(text) * 10**decimals
    if len(digits) > decimals:
        expected = AmountFault.TOO_MANY_DECIMALS
    elif minor_units == 0:
        expected = AmountFault.NOT_POSITIVE
    elif minor_units > AMOUNT_MAX:
        expected = AmountFault.TOO_LARGE
    else:
        assert parse_amount(text, decimals) == minor_units
        return
    with pytest.raises(InvalidAmount) as refusal:
        parse_amount(text, decimals)
    assert refusal.value.fault is expected


@pytest.mark.parametrize(
    ("text", "decimals", "minor_units"),
    [
        ("100.00000000", 8, 10_000_000_000),
        ("100", 8, 10_000_000_000),
        ("0.5", 8, 50_000_000),
        ("0.00000001", 8, 1),
        ("1", 0, 1),
        ("9223372036854775807", 0, AMOUNT_MAX),
        ("92233720368.54775807", 8, AMOUNT_MAX),
        ("9.223372036854775807", 18, AMOUNT_MAX),
        ("0.000000000000000001", 18, 1),
        ("1.10", 2, 110),
    ],
)
def test_amounts(text: str, decimals: int, minor_units: int) -> None:
    assert parse_amount(text, decimals) == minor_units


MALFORMED = [
    *("", " ", ".", "-", "+", ".5", "5.", "1..2", "1.2.3", "1,5", "1,000", "1 000", "1_000", "1'000"),
    *("-1", "+1", "-0", "--1", "1-", "1+", "1.-5", "1.+5", "\u22121"),
    *("1e3", "1E3", "1e", "1e+3", "1.5e-1", "0x10", "1f", "1L", "1n", "10%", "$1", "1 USDT"),
    *(" 1", "1 ", "1\n", "\n1", "1\r\n", "1.5\n", "1\t", "1\x00", "\ufeff1", "1\u00a0", "1. 5", "1 .5"),
    *("01", "00", "00.5", "007", "-01", "0_0", "0e0"),
    # Digits to str.isdigit() or int(), but not to us: Arabic, fullwidth, superscript, Devanagari, mathematical.
    *("\u0661\u0662", "\uff11\uff12", "1.\uff15", "\u00b2", "\u00bd", "\u2167", "\u0967", "\U0001d7d9", "1\u0661"),
    *("nan", "NaN", "inf", "Infinity", "-inf", "sNaN", "null", "None", "true", "one"),
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("decimals", [0, 8])
def test_what_is_no_plain_decimal_number(text: str, decimals: int) -> None:
    with pytest.raises(InvalidAmount) as refusal:
        parse_amount(text, decimals)
    assert refusal.value.fault is AmountFault.MALFORMED


@given(st.text(max_size=12), decimals_of_assets)
def test_any_text_is_an_amount_or_a_refusal(text: str, decimals: int) -> None:
    try:
        minor_units = parse_amount(text, decimals)
    except InvalidAmount:
        return
    assert set(text) <= set("0123456789.")
    assert 0 < minor_units <= AMOUNT_MAX


@pytest.mark.parametrize(
    ("text", "decimals", "fault"),
    [
        ("1.000000000", 8, AmountFault.TOO_MANY_DECIMALS),  # though the ninth is a zero
        ("1.0", 0, AmountFault.TOO_MANY_DECIMALS),
        ("0.000", 2, AmountFault.TOO_MANY_DECIMALS),
        ("99999999999999999999.000", 2, AmountFault.TOO_MANY_DECIMALS),
        ("0." + "0" * 100_000 + "1", 8, AmountFault.TOO_MANY_DECIMALS),
        ("0", 0, AmountFault.NOT_POSITIVE),
        ("0", 8, AmountFault.NOT_POSITIVE),
        ("0.00000000", 8, AmountFault.NOT_POSITIVE),
        ("9223372036854775808", 0, AmountFault.TOO_LARGE),
        ("92233720368.54775808", 8, AmountFault.TOO_LARGE),
        ("9.223372036854775808", 18, AmountFault.TOO_LARGE),
        ("10", 18, AmountFault.TOO_LARGE),
        ("18446744073709551617", 0, AmountFault.TOO_LARGE),
        ("9" * 100_000, 0, AmountFault.TOO_LARGE),  # more digits than int() takes
    ],
)
def test_refusals(text: str, decimals: int, fault: AmountFault) -> None:
    with pytest.raises(InvalidAmount) as refusal:
        parse_amount(text, decimals)
    assert refusal.value.fault is fault
    assert fault.value in str(refusal.value)
    assert len(str(refusal.value)) < 160


@pytest.mark.parametrize(
    ("minor_units", "decimals", "text"),
    [
        (0, 8, "0.00000000"),
        (1, 8, "0.00000001"),
        (-1, 8, "-0.00000001"),
        (-150, 2, "-1.50"),
        (7, 0, "7"),
        (-7, 0, "-7"),
    ],
)
def test_printing(minor_units: int, decimals: int, text: str) -> None:
    assert format_amount(minor_units, decimals) == text


@pytest.mark.parametrize("change", [{"asset_id": 0}, {"asset_id": 2**32 - 1}, {"decimals": -1}, {"decimals": 19}])
def test_an_asset_out_of_range_is_refused_by_name(change: dict[str, int]) -> None:
    fields = {"asset_id": 1, "symbol": "USDT", "decimals": 8} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        Asset(**fields)


@pytest.mark.parametrize(("asset_id", "decimals"), [(1, 0), (2**32 - 2, DECIMALS_MAX)])
def test_an_asset_at_its_bounds(asset_id: int, decimals: int) -> None:
    assert Asset(asset_id=asset_id, symbol="X", decimals=decimals).enabled
    assert parse_amount("1", decimals) <= AMOUNT_MAX
