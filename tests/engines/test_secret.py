import json
import time

import pytest

from anomalyr1.engines.secret import Secret
from support.disguises import DISGUISES, KEY


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_the_key_is_found_in_disguise(disguise):
    secret = Secret(KEY)
    for text in (disguise, f"before {disguise} behind", f'{{"content": {json.dumps(disguise)}}}'):
        assert secret.is_in(text)
        assert KEY not in secret.redact(text)
        assert disguise not in secret.redact(text)


def test_without_the_disguises_undone_only_the_plain_key_is_found():
    """The control: what a plain search finds."""
    assert [name for name, disguise in DISGUISES.items() if KEY in disguise] == ["plain"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The inspection finds no defect.",
        "sk-AbC",  # too short a piece to tell
        "abcdef9876 zyxw",
        '{"bbox_2d": [98, 76, 543, 210]}',
        "\\",
        "&#99999999999;",
        "%%%\\u12",
        "\ud800",
    ],
)
def test_other_text_stays(text):
    assert not Secret(KEY).is_in(text)
    assert Secret(KEY).redact(text) == text


@pytest.mark.parametrize("key", ["", "EMPTY", "no-secret-15-lo"])
def test_a_short_key_is_no_secret(key):
    assert not Secret(key).is_in(f"The pocket is {key}.")


def test_a_key_of_signs_is_found_as_it_is():
    key = "sk-" + "/+=-_" * 4
    assert Secret(key).is_in(f"it is {key}")
    assert not Secret(key).is_in("The disk is even.")


def test_only_the_key_is_taken_out_of_a_text():
    assert Secret(KEY).redact(f"bad header Bearer {KEY}") == "bad header Bearer [key]"
    assert repr(Secret(KEY)) == "Secret()"


def test_long_texts_take_linear_time():
    secret, seconds = Secret(KEY), []
    for size in (2**12, 2**18):
        text = ("&amp;" * size)[:size] + ("%25" * size)[:size] + ("a\u0301\u0327" * size)[:size]
        start = time.process_time()
        assert not secret.is_in(text)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 1000 * seconds[0] + 1  # 64 times the text; quadratic were 4,096 times the time
