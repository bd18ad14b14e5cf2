"""Texts that users give, as YAML and Python read them back."""

import json
import re

# What may stand in YAML as it is; U+2028 and U+2029 would be line breaks.
_PRINTABLE = "\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"


def hub_id(license_id: str) -> str:
    """Returns an identifier in lower case, as model hubs list them; other words as they are."""
    return license_id.lower() if re.fullmatch(r"[A-Za-z0-9.+-]+", license_id) else license_id


def yaml_scalar(text: str) -> str:
    """Returns a text as a YAML scalar that reads back as this text, plain where that is safe."""
    if re.fullmatch(r"[a-z]+(-[a-z]*[0-9][a-z0-9.]*|-[a-z]+)+", text):  # such as cc-by-4.0
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(f"[^{_PRINTABLE}]", lambda match: f"\\U{ord(match[0]):08x}", quoted)


def quoted(text: str) -> str:
    """Returns a text as a literal of Python in double quotes."""
    return json.dumps(text, ensure_ascii=False)
