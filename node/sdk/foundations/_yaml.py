"""The part of YAML that configuration files are written in, with the line of every key, and nothing that runs code.

Mappings and lists, as blocks and in brackets; plain, quoted and block texts; comments; YAML 1.1's words for true,
false and null. Anchors, aliases, tags and several documents are refused with file and line: no configuration of
Foundations has them, and they are what makes YAML dangerous. The standard library has no YAML, and this package
asks for no other.
"""

from __future__ import annotations

import re

from ._errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Tuple

# Configuration is written by hand; a larger file is something else.
SIZE_MAX = 1 << 20
_DEPTH_MAX = 64
_DOCUMENTS = "several documents in one file; keep one"

_WORDS: Dict[str, Any] = {"": None, "~": None}
for _word in ("null", "true", "false", "yes", "no", "on", "off"):
    for _spelt in (_word, _word.capitalize(), _word.upper()):
        _WORDS[_spelt] = None if _word == "null" else _word in ("true", "yes", "on")
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_BASED = re.compile(r"0(x[0-9a-fA-F_]+|o[0-7]+|b[01_]+)$")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$")
_SPECIAL = re.compile(r"([-+]?)\.(inf|nan)$", re.IGNORECASE)
_KINDS = {"list": "a list", "bool": "true or false", "int": "a number", "float": "a number"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
_ESCAPES.update({" ": " ", '"': '"', "\\": "\\", "/": "/"})


class Mapping(dict):
    """A mapping that knows the line of each of its keys, from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Dict[str, int] = {}


def read_mapping(path: str) -> Mapping:
    """The mapping in a file; an empty file is an empty one.

    :raises ConfigurationError: it cannot be read, or is not a mapping; the text names file and line.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise ConfigurationError("cannot read {}: {}".format(path, error.strerror)) from None
    except UnicodeDecodeError:
        raise ConfigurationError("{} is not UTF-8 text".format(path)) from None
    if len(text) > SIZE_MAX:
        raise ConfigurationError("{} is larger than a configuration may be, 1 MiB".format(path))
    value = parse(text, path)
    if value is None:
        return Mapping()
    if not isinstance(value, Mapping):
        kind = _KINDS.get(type(value).__name__, "a text")
        raise ConfigurationError("{} holds {}; write keys with values".format(path, kind))
    return value


def parse(text: str, name: str) -> Any:
    """What a document holds; `name` is what errors call it."""
    parser = _Parser(text, name)
    value = parser.block(0, 0)
    if parser.at < len(parser.lines):
        if parser.lines[parser.at].text in ("---", "..."):
            parser.refuse(_DOCUMENTS)
        parser.refuse("this line is not indented as the ones before")
    return value


class _Line:
    """A line that holds something: its indentation, its text without comment, its number."""

    __slots__ = ("indent", "text", "number")

    def __init__(self, indent: int, text: str, number: int) -> None:
        self.indent = indent
        self.text = text
        self.number = number


class _Parser:
    """Recursive descent over the lines that hold something."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.raw = text.splitlines()
        self.at = 0
        self.lines: List[_Line] = []
        for number, raw in enumerate(self.raw, 1):
            body = _without_comment(raw).rstrip()
            stripped = body.lstrip(" ")
            if stripped.startswith("\t"):
                self._refuse_at(number, "a tab indents it; use spaces")
            if stripped and not (stripped == "---" and not self.lines):
                self.lines.append(_Line(len(body) - len(stripped), stripped, number))

    def refuse(self, what: str) -> NoReturn:
        number = self.lines[min(self.at, len(self.lines) - 1)].number if self.lines else 1
        self._refuse_at(number, what)

    def _refuse_at(self, number: int, what: str) -> NoReturn:
        raise ConfigurationError("{}:{}: {}".format(self.name, number, what))

    def block(self, indent: int, depth: int) -> Any:
        """The value that the lines from here on, indented at least `indent`, make."""
        if depth > _DEPTH_MAX:
            self.refuse("nested deeper than {} levels".format(_DEPTH_MAX))
        if self.at >= len(self.lines) or self.lines[self.at].indent < indent:
            return None
        line = self.lines[self.at]
        if line.text in ("---", "..."):
            self.refuse(_DOCUMENTS)
        if line.text == "-" or line.text.startswith("- "):
            return self._sequence(line.indent, depth)
        if _key_end(line.text) >= 0:
            return self._mapping(line.indent, depth)
        self.at += 1
        return self._inline(line.text, line, indent, depth)

    def _sequence(self, indent: int, depth: int) -> List[Any]:
        items = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.indent != indent or not (line.text == "-" or line.text.startswith("- ")):
                break
            rest = line.text[1:].lstrip(" ")
            if not rest:
                self.at += 1
                items.append(self.block(indent + 1, depth + 1))
            elif rest == "-" or rest.startswith("- ") or _key_end(rest) >= 0:
                # What stands behind the dash is a block of its own, as if it were on its own line.
                self.lines[self.at] = _Line(indent + len(line.text) - len(rest), rest, line.number)
                items.append(self.block(indent + 1, depth + 1))
            else:
                self.at += 1
                items.append(self._inline(rest, line, indent + 1, depth))
        return items

    def _mapping(self, indent: int, depth: int) -> Mapping:
        found = Mapping()
        while self.at < len(self.lines):
            line = self.lines[self.at]
            end = _key_end(line.text)
            if line.indent != indent or end < 0:
                break
            key = str(self._key(line.text[:end].strip(), line))
            if key in found:
                self.refuse("`{}` stands here for the second time; keep one".format(key))
            found.lines[key] = line.number
            rest = line.text[end + 1 :].strip()
            self.at += 1
            if rest:
                found[key] = self._inline(rest, line, indent + 1, depth)
            else:
                found[key] = self._below(indent, depth)
        return found

    def _below(self, indent: int, depth: int) -> Any:
        """The value of a key that has nothing beside it; a list may be as far left as its key."""
        if self.at < len(self.lines):
            line = self.lines[self.at]
            if line.indent == indent and (line.text == "-" or line.text.startswith("- ")):
                return self._sequence(indent, depth + 1)
        return self.block(indent + 1, depth + 1)

    def _key(self, text: str, line: _Line) -> Any:
        if text[:1] in ('"', "'"):
            return self._quoted(text, line)[0]
        self._check_plain(text, line)
        return text

    def _inline(self, text: str, line: _Line, indent: int, depth: int) -> Any:
        """A value that begins on `line`; texts and brackets may go on below."""
        if text[0] in "|>":
            return self._literal(text, line, indent)
        if text[0] in "[{":
            return self._flow_whole(text, line, depth)
        if text[0] in "\"'":
            text = self._joined(text, indent, lambda so_far: _quote_end(so_far) >= 0)
            value, rest = self._quoted(text, line)
            if rest.strip():
                self._refuse_at(line.number, "there is text behind the closing quote")
            return value
        self._check_plain(text, line)
        while self.at < len(self.lines) and self.lines[self.at].indent >= indent:
            if _key_end(self.lines[self.at].text) >= 0:
                self.refuse("a key stands inside of a value; check the indentation")
            text += " " + self.lines[self.at].text
            self.at += 1
        return scalar(text)

    def _joined(self, text: str, indent: int, is_whole: Any) -> str:
        while not is_whole(text) and self.at < len(self.lines) and self.lines[self.at].indent >= indent:
            text += " " + self.lines[self.at].text
            self.at += 1
        return text

    def _check_plain(self, text: str, line: _Line) -> None:
        what = {"&": "an anchor", "*": "an alias", "!": "a tag", "%": "a directive", "@": "@", "`": "a backtick"}
        first = text[:1]
        if first in what and not (first == "*" and text == "*") or text == "<<":
            name = what.get(first, "a merge key")
            self._refuse_at(line.number, "{} is not supported here; write the value out, or in quotes".format(name))
        if ": " in text and _key_end(text) >= 0:
            self._refuse_at(line.number, "a value holds `: `; put it in quotes")

    def _literal(self, head: str, line: _Line, indent: int) -> str:
        """A block text: lines as they are (`|`), or folded into paragraphs (`>`)."""
        if head.rstrip("+-0123456789") not in ("|", ">"):
            self._refuse_at(line.number, "{!r} does not begin a block text".format(head))
        # Comments and blank lines are part of the text here: read from the file, not from the lines.
        taken, number = [], line.number
        while number < len(self.raw):
            raw = self.raw[number]
            if raw.strip() and len(raw) - len(raw.lstrip(" ")) < max(indent, 1):
                break
            taken.append(raw)
            number += 1
        while self.at < len(self.lines) and self.lines[self.at].number <= number:
            self.at += 1
        margins = [len(raw) - len(raw.lstrip(" ")) for raw in taken if raw.strip()]
        margin = min(margins) if margins else 0
        text = "\n".join(raw[margin:].rstrip("\r") for raw in taken).rstrip("\n")
        if head[0] == ">":
            text = re.sub(r"(?<=\S)\n(?=\S)", " ", text).replace("\n\n", "\n")
        return text if "-" in head or not text else text + "\n"

    def _flow_whole(self, text: str, line: _Line, depth: int) -> Any:
        text = self._joined(text, 0, _is_balanced)
        value, rest = self._flow(text, line, depth + 1)
        if rest.strip():
            self._refuse_at(line.number, "there is text behind the closing bracket")
        return value

    def _flow(self, text: str, line: _Line, depth: int) -> Tuple[Any, str]:
        """A value in brackets, or inside of them; and the text behind it."""
        if depth > _DEPTH_MAX:
            self._refuse_at(line.number, "nested deeper than {} levels".format(_DEPTH_MAX))
        text = text.lstrip()
        if text[:1] in ('"', "'"):
            return self._quoted(text, line)
        if text[:1] not in ("[", "{"):
            plain = re.match(r"(?:[^,\[\]{}:]|:(?![\s,\[\]{}]|$))*", text).group(0)  # type: ignore[union-attr]
            self._check_plain(plain.strip(), line)
            return scalar(plain.strip()), text[len(plain) :]
        closing = "]" if text[0] == "[" else "}"
        items: List[Any] = []
        found = Mapping()
        text = text[1:].lstrip()
        while not text.startswith(closing):
            value, text = self._flow(text, line, depth + 1)
            text = text.lstrip()
            if closing == "}":
                key = str(value) if value is not None else ""
                value = None
                if text.startswith(":"):
                    value, text = self._flow(text[1:], line, depth + 1)
                    text = text.lstrip()
                if key in found:
                    self._refuse_at(line.number, "`{}` stands here for the second time; keep one".format(key))
                found[key], found.lines[key] = value, line.number
            items.append(value)
            if not text.startswith((",", closing)):
                self._refuse_at(line.number, "a bracket is not closed, or a comma is missing")
            text = text[1:].lstrip() if text.startswith(",") else text
        return (items if closing == "]" else found), text[1:]

    def _quoted(self, text: str, line: _Line) -> Tuple[str, str]:
        end = _quote_end(text)
        if end < 0:
            self._refuse_at(line.number, "a quote is not closed")
        inside, rest = text[1:end], text[end + 1 :]
        if text[0] == "'":
            return inside.replace("''", "'"), rest
        return re.sub(r"\\(x..|u.{4}|U.{8}|.)", lambda found: self._escaped(found.group(1), line), inside), rest

    def _escaped(self, code: str, line: _Line) -> str:
        if len(code) == 1:
            if code in _ESCAPES:
                return _ESCAPES[code]
        else:
            try:
                return chr(int(code[1:], 16))
            except (ValueError, OverflowError):
                pass
        self._refuse_at(line.number, "\\{} is no escape; write a backslash as \\\\".format(code))


def scalar(text: str) -> Any:
    """What a plain text means: null, true, false, a number, or itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _BASED.match(text):
        return int(text.replace("_", ""), 0)
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    special = _SPECIAL.match(text)
    return float(special.group(1) + special.group(2)) if special else text


def _without_comment(raw: str) -> str:
    """A line up to its comment; `#` inside quotes or a word is none."""
    if "#" not in raw:
        return raw
    quote = ""
    for at, char in enumerate(raw):
        if quote:
            # A backslash hides the next quote; a doubled single quote opens again at once.
            if char == quote and not (quote == '"' and raw[at - 1] == "\\"):
                quote = ""
        elif char in "\"'" and (at == 0 or raw[at - 1] in " \t[{,:"):
            quote = char
        elif char == "#" and (at == 0 or raw[at - 1] in " \t"):
            return raw[:at]
    return raw


def _key_end(text: str) -> int:
    """Where the colon behind a key is; -1: the text does not begin with a key."""
    if text[:1] in ('"', "'"):
        end = _quote_end(text)
        rest = text[end + 1 :].lstrip() if end >= 0 else ""
        return len(text) - len(rest) if rest[:1] == ":" and rest[1:2] in ("", " ") else -1
    if text[:1] in ("[", "{"):
        return -1
    found = re.search(r":(?= |$)", text)
    return found.start() if found else -1


def _quote_end(text: str) -> int:
    """Where the quote that `text` begins with is closed; -1: it is not."""
    at, quote = 1, text[0]
    while at < len(text):
        if quote == '"' and text[at] == "\\":
            at += 1
        elif text[at] == quote:
            if quote == "'" and text[at + 1 : at + 2] == "'":
                at += 1
            else:
                return at
        at += 1
    return -1


def _is_balanced(text: str) -> bool:
    """Whether all brackets that `text` opens are closed, quotes left out."""
    depth, at = 0, 0
    while at < len(text):
        char = text[at]
        if char in "\"'" and (at == 0 or text[at - 1] in " [{,:"):
            end = _quote_end(text[at:])
            if end < 0:
                return False
            at += end
        depth += (char in "[{") - (char in "]}")
        at += 1
    return depth <= 0
