"""Rules by pattern, in the form in which the configuration file has them, and in which they are
shown. Pure; no state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mimicfs.config.options import IN_BUCKETS, Kind, Option, checked, nearest
from mimicfs.config.rules import KeyRule
from mimicfs.config.tags import TAGS_MAX, wrong_with
from mimicfs.entry import KEY_MAX
from mimicfs.errors import ConfigError

_CONTENT_TYPE = Option("content-type", Kind.TEXT, "")
_CACHE_CONTROL = Option("cache-control", Kind.TEXT, "")
_IN_RULES: Mapping[str, Option] = {
    option.name: option
    for option in (
        *(IN_BUCKETS[name] for name in ("storage-class", "sse", "kms-key-id")),
        _CONTENT_TYPE,
        _CACHE_CONTROL,
    )
}
_KNOWN = ("keys", "tags", *_IN_RULES)


def rules_in(tables: Any, section: str) -> tuple[KeyRule, ...]:
    """Return the rules in *tables*, which *section* of a file has. Raises ConfigError."""
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        heading = section.partition(" [")[2].removesuffix("]")
        raise ConfigError(f"{section} rules: write them as [[{heading}.rules]]")
    return tuple(
        _rule(table, f"{section} rule {number}") for number, table in enumerate(tables, start=1)
    )


def _rule(table: Mapping[str, Any], origin: str) -> KeyRule:
    said: dict[str, Any] = {}
    patterns: tuple[str, ...] = ()
    for key, value in table.items():
        name = key.replace("_", "-")
        about = f"{origin}: {key}"
        if name == "keys":
            patterns = _patterns(value, about)
        elif name == "tags":
            said["tags"] = _tags(value, about)
        elif name in _IN_RULES:
            said[name.replace("-", "_")] = _text(_IN_RULES[name], value, about)
        else:
            near = nearest(name, _KNOWN)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(_KNOWN)}"
            raise ConfigError(f"{about}: no such key; {hint}")
    if not patterns:
        raise ConfigError(f'{origin}: has no keys; write keys = "*.jpg"')
    return KeyRule(patterns, _with_encryption(said, origin), origin)


def _patterns(value: Any, about: str) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise ConfigError(f"{about}: must be a pattern, or a list of patterns")
    for each in patterns:
        if not each or len(each.encode("utf-8", "surrogatepass")) > KEY_MAX:
            raise ConfigError(f"{about}: a pattern of {len(each)} characters matches no key")
        if each.startswith("s3://"):
            raise ConfigError(f"{about}: {each}: a pattern matches keys, without s3:// and bucket")
    return tuple(patterns)


def _text(option: Option, value: Any, about: str) -> str:
    text = str(checked(option, value, about))
    if not text.isascii() or (text and not text.isprintable()):
        raise ConfigError(f"{about}: {text!r}: a header cannot contain that")
    return text


def _tags(value: Any, about: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ConfigError(f'{about}: write them as {{ NAME = "VALUE" }}')
    if len(value) > TAGS_MAX:
        raise ConfigError(f"{about}: {len(value)} tags; S3 takes at most {TAGS_MAX}")
    for name, text in value.items():
        if wrong := wrong_with(name, text):
            raise ConfigError(f"{about}: {wrong}")
    return tuple(value.items())


def _with_encryption(said: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return *said* with algorithm and key together: a rule that names one of them sets both, so
    that the key of another rule cannot join its algorithm."""
    if "sse" not in said and "kms_key_id" not in said:
        return said
    key = said.get("kms_key_id", "")
    sse = said.get("sse", "") or ("aws:kms" if key else "")
    if key and sse == "AES256":
        raise ConfigError(f"{origin}: kms-key-id: needs sse = aws:kms")
    return {**said, "sse": sse, "kms_key_id": key}


# The shown form


def in_toml(value: Any) -> str:
    """Return *value* in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(in_toml, value))}]"
    pairs = ", ".join(f"{in_toml(name)} = {in_toml(text)}" for name, text in value.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def plain_of_rule(value: Any) -> Any:
    """Return *value*, of a rule, in the form that a configuration file may have."""
    return value if isinstance(value, str) else dict(value)


def table_of(rule: KeyRule) -> dict[str, Any]:
    """Return *rule* as a table, in the form that a configuration file may have."""
    said = {
        name.replace("_", "-"): plain_of_rule(value)
        for name, value in rule.said.items()
        if value or name not in ("sse", "kms_key_id")
    }
    return {"keys": list(rule.patterns), **said}
