"""A key of a server, and what a server may make of it."""

import base64
import html
import json
from urllib.parse import quote

KEY = "sk-AbC/dEf+9876543210&zyxw"
SHIFTED = [base64.b64encode(f"{'x' * shift}{KEY} and more".encode()).decode() for shift in range(3)]


def escaped(text, characters):
    return "".join(f"\\u{ord(one):04x}" if one in characters else one for one in text)


DISGUISES = {
    "plain": KEY,
    "an escaped hyphen": escaped(KEY, "-"),
    "an escaped slash": KEY.replace("/", "\\/"),
    "all escaped": escaped(KEY, KEY),
    "escaped twice": json.dumps(escaped(KEY, "-/")),
    "hexadecimal escapes": "".join(f"\\x{ord(one):02X}" for one in KEY),
    "of a URL": quote(KEY, safe=""),
    "of a URL, twice": quote(quote(KEY, safe="")),
    "of HTML": html.escape(KEY),
    "numbers of HTML": "".join(f"&#{ord(one)};" for one in KEY),
    "base64 0": SHIFTED[0],
    "base64 1": SHIFTED[1],
    "base64 2": SHIFTED[2],
    "base64 of a URL": base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode(),
    "in lines of base64": base64.encodebytes(f"Bearer {KEY}".encode() * 3).decode(),
    "hexadecimal": KEY.encode().hex(),
    "capitals": KEY.upper(),
    "spaced": " ".join(KEY),
    "a letter a line": "\n".join(KEY),
    "nothing between": "\u200b".join(KEY),
    "tags between": f"{KEY[:9]}<>{KEY[9:]}",
    "full width": "".join(chr(ord(one) + 0xFEE0) for one in KEY),
    "UTF-16": KEY.encode("utf-16-le").decode("utf-8"),
    "the first half": KEY[: len(KEY) * 2 // 3],
    "the other half": KEY[len(KEY) // 3 :],
}
