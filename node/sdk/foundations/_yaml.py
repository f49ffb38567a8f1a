"""The part of YAML that configuration files are written in, with the line of every key, and nothing that runs code.

Mappings and lists, as blocks and in brackets; plain, quoted and block texts; comments; YAML 1.1's words for true,
false and null; anchors, aliases and merge keys, as far as what they unfold to is bounded; the tags of plain values.
Other tags, which could name code, and several documents are refused with file and line. The standard library has no
YAML, and this package asks for no other.
"""

from __future__ import annotations

import re

from ._errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, Union

# Configuration is written by hand; a larger file is something else.
SIZE_MAX = 1 << 20
_DEPTH_MAX = 64
# The program holds 128 bits.
_INT_MAX = (1 << 127) - 1
# What aliases repeat: a thousand runs that share a block of a hundred keys. Ten short lines can ask for billions.
_UNFOLDED_MAX = 100_000
# Their characters: a text that is repeated is written out in the parameters of a job.
_UNFOLDED_CHARS_MAX = 8 << 20
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
_TAGS = ("str", "int", "float", "bool", "null", "map", "seq")
_NO_KEY = "a key is a list or has keys of its own; write a text"
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


class _Merge:
    """The key whose value's keys are taken over."""

    def __str__(self) -> str:
        return "<<"


_MERGE = _Merge()


class _Anchored:
    """What stands behind an anchor, once it was read to its end."""

    __slots__ = ("is_open", "value", "text", "values", "chars", "depth")

    def __init__(self) -> None:
        self.is_open = True

    def close(self, value: Any, text: Optional[str]) -> None:
        """Takes what was read; `text` is what a key would be called by, of a list or a mapping None."""
        self.is_open, self.value, self.text = False, value, text
        self.values, self.chars, self.depth = _size(value)


class _Properties:
    """What stands before a value: its anchor and its tag, and where."""

    __slots__ = ("anchored", "tag", "number")

    def __init__(self, number: int) -> None:
        self.anchored: Optional[_Anchored] = None
        self.tag = ""
        self.number = number


class _Parser:
    """Recursive descent over the lines that hold something."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.anchors: Dict[str, _Anchored] = {}
        self.unfolded = 0
        self.unfolded_chars = 0
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

    def block(self, indent: int, depth: int, given: Optional[_Properties] = None) -> Any:
        """The value that the lines from here on, indented at least `indent`, make; `given` stands before it."""
        if depth > _DEPTH_MAX:
            self.refuse("nested deeper than {} levels".format(_DEPTH_MAX))
        if self.at >= len(self.lines) or self.lines[self.at].indent < indent:
            return self._scalar("", True, given)
        line = self.lines[self.at]
        if line.text in ("---", "..."):
            self.refuse(_DOCUMENTS)
        if line.text == "-" or line.text.startswith("- "):
            return self._collection(self._sequence(line.indent, depth), given)
        if _key_end(line.text) >= 0:
            return self._collection(self._mapping(line.indent, depth), given)
        self.at += 1
        return self._inline(line.text, line, indent, depth - 1, lambda own: self.block(indent, depth, own), given)

    def _sequence(self, indent: int, depth: int) -> List[Any]:
        items: List[Any] = []
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
                below = lambda own: self.block(indent + 1, depth + 1, own)  # noqa: E731
                items.append(self._inline(rest, line, indent + 1, depth, below))
        return items

    def _mapping(self, indent: int, depth: int) -> Mapping:
        found = Mapping()
        merged: List[Mapping] = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            end = _key_end(line.text)
            if line.indent != indent or end < 0:
                break
            key = self._key(line.text[:end].strip(), line)
            if key in found:
                self.refuse("`{}` stands here for the second time; keep one".format(key))
            rest = line.text[end + 1 :].strip()
            self.at += 1
            below = lambda own: self._below(indent, depth, own)  # noqa: E731
            value = self._inline(rest, line, indent + 1, depth, below) if rest else self._below(indent, depth)
            if key is _MERGE:
                merged += self._mergeable(value, line)
            else:
                found[str(key)], found.lines[str(key)] = value, line.number
        return _with_merged(merged, found)

    def _below(self, indent: int, depth: int, given: Optional[_Properties] = None) -> Any:
        """The value of a key that has nothing beside it; a list may be as far left as its key."""
        if self.at < len(self.lines):
            line = self.lines[self.at]
            if line.indent == indent and (line.text == "-" or line.text.startswith("- ")):
                return self._collection(self._sequence(indent, depth + 1), given)
        return self.block(indent + 1, depth + 1, given)

    def _key(self, text: str, line: _Line) -> Union[str, _Merge]:
        given, text = self._properties(text, line)
        if text[:1] == "*":
            return self._alias_key(text, line)[0]
        is_plain = text[:1] not in ('"', "'")
        if not is_plain:
            text = self._quoted(text, line)[0]
        elif text == "<<" and not given.tag:
            return _MERGE
        else:
            self._check_plain(text, line, given)
        if given.anchored or given.tag:
            self._scalar(text, is_plain, given)
        return text

    def _alias_key(self, text: str, line: _Line) -> Tuple[str, str]:
        """The text that an alias stands for as a key, and what is behind the alias."""
        # A text is no deeper than what it stands in.
        anchored, rest = self._alias(text, line, 0)
        if anchored.text is None:
            self._refuse_at(line.number, _NO_KEY)
        return anchored.text, rest

    def _properties(
        self, text: str, line: _Line, given: Optional[_Properties] = None
    ) -> Tuple[_Properties, str]:
        """The anchor and the tag that a value begins with, and the text behind them."""
        own = given or _Properties(line.number)
        while text[:1] in ("&", "!"):
            word = _word(text)
            text = text[len(word) :]
            if text[:1] not in ("", " ", "\t", ",", "]", "}"):
                self._refuse_at(line.number, "{} is not followed by a space".format(word))
            if (own.anchored if word[0] == "&" else own.tag) or word == "&":
                self._refuse_at(line.number, "a value has one anchor with a name, and one tag")
            if word[0] == "&":
                own.anchored = self.anchors[word[1:]] = _Anchored()
            elif word[:2] == "!!" and word[2:] in _TAGS:
                own.tag = word[2:]
            else:
                known = ", ".join("!!" + tag for tag in _TAGS)
                self._refuse_at(line.number, "the tag {} is not supported; known are {}".format(word, known))
            text = text.lstrip()
        if text[:1] == "*" and (own.anchored or own.tag):
            self._refuse_at(line.number, "an alias has no anchor or tag of its own")
        return own, text

    def _alias(self, text: str, line: _Line, depth: int) -> Tuple[_Anchored, str]:
        """What an alias `depth` levels deep stands for, and the text behind it."""
        name = _word(text)[1:]
        anchored = self.anchors.get(name)
        if anchored is None:
            what = "`*{0}` has no `&{0}` before it; write the value out, or in quotes".format(name)
            self._refuse_at(line.number, what)
        if anchored.is_open:
            self._refuse_at(line.number, "`*{0}` stands inside of `&{0}`; write the value out".format(name))
        self.unfolded += anchored.values
        self.unfolded_chars += anchored.chars
        if self.unfolded > _UNFOLDED_MAX:
            self._refuse_at(line.number, "aliases unfold to more than {} values".format(_UNFOLDED_MAX))
        if self.unfolded_chars > _UNFOLDED_CHARS_MAX:
            self._refuse_at(line.number, "aliases unfold to more than 8 MiB of text")
        if depth + anchored.depth > _DEPTH_MAX:
            self._refuse_at(line.number, "nested deeper than {} levels".format(_DEPTH_MAX))
        return anchored, text[len(name) + 1 :]

    def _mergeable(self, value: Any, line: _Line) -> List[Mapping]:
        """The mappings that a merge key takes keys from, the weakest first."""
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(one, Mapping) for one in found):
            self._refuse_at(line.number, "`<<` takes keys with values, or a list of such")
        return found[::-1]

    def _scalar(self, text: str, is_plain: bool, given: Optional[_Properties]) -> Any:
        """The value of a text that was read to its end."""
        tag = given.tag if given else ""
        try:
            value = _as_tagged(text, tag) if tag else scalar(text) if is_plain else text
        except ValueError:
            what = "this is no !!{}".format(tag) if tag else "this number is too large"
            self._refuse_at(given.number if given else 1, what)
        if given and given.anchored:
            given.anchored.close(value, text)
        return value

    def _collection(self, value: Any, given: Optional[_Properties]) -> Any:
        """A list or a mapping that was read to its end."""
        if given and given.tag not in ("", "map" if isinstance(value, Mapping) else "seq"):
            self._refuse_at(given.number, "this is no !!{}".format(given.tag))
        if given and given.anchored:
            given.anchored.close(value, None)
        return value

    def _inline(
        self,
        text: str,
        line: _Line,
        indent: int,
        depth: int,
        below: Callable[[_Properties], Any],
        given: Optional[_Properties] = None,
    ) -> Any:
        """A value that begins on `line`; texts and brackets may go on below. Behind an anchor or a tag all may be."""
        given, text = self._properties(text, line, given)
        if not text:
            return below(given)
        if text[0] == "*":
            anchored, rest = self._alias(text, line, depth + 1)
            if rest.strip():
                self._refuse_at(line.number, "there is text behind an alias")
            return anchored.value
        if text[0] in "|>":
            return self._scalar(self._literal(text, line, indent), False, given)
        if text[0] in "[{":
            return self._flow_whole(text, line, depth, given)
        if text[0] in "\"'":
            text = self._joined(text, indent, lambda so_far: _quote_end(so_far) >= 0)
            value, rest = self._quoted(text, line)
            if rest.strip():
                self._refuse_at(line.number, "there is text behind the closing quote")
            return self._scalar(value, False, given)
        self._check_plain(text, line, given)
        while self.at < len(self.lines) and self.lines[self.at].indent >= indent:
            if _key_end(self.lines[self.at].text) >= 0:
                self.refuse("a key stands inside of a value; check the indentation")
            text += " " + self.lines[self.at].text
            self.at += 1
        return self._scalar(text, True, given)

    def _joined(self, text: str, indent: int, is_whole: Any) -> str:
        while not is_whole(text) and self.at < len(self.lines) and self.lines[self.at].indent >= indent:
            text += " " + self.lines[self.at].text
            self.at += 1
        return text

    def _check_plain(self, text: str, line: _Line, given: Optional[_Properties] = None) -> None:
        what = {"%": "a directive", "@": "@", "`": "a backtick"}.get(text[:1])
        if what is not None:
            self._refuse_at(line.number, "{} is not supported here; write the value out, or in quotes".format(what))
        if text == "<<" and not (given and given.tag):
            self._refuse_at(line.number, "`<<` is a key; as a value it stands in quotes")
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

    def _flow_whole(self, text: str, line: _Line, depth: int, given: _Properties) -> Any:
        text = self._joined(text, 0, _is_balanced)
        value, rest = self._flow(text, line, depth + 1, given)
        if rest.strip():
            self._refuse_at(line.number, "there is text behind the closing bracket")
        return value

    def _flow(self, text: str, line: _Line, depth: int, given: Optional[_Properties] = None) -> Tuple[Any, str]:
        """A value in brackets, or inside of them; and the text behind it."""
        if depth > _DEPTH_MAX:
            self._refuse_at(line.number, "nested deeper than {} levels".format(_DEPTH_MAX))
        given, text = self._properties(text.lstrip(), line, given)
        if text[:1] == "*":
            anchored, text = self._alias(text, line, depth)
            return anchored.value, text
        if text[:1] in ('"', "'"):
            value, text = self._quoted(text, line)
            return self._scalar(value, False, given), text
        if text[:1] == "[":
            items, text = self._flow_list(text[1:].lstrip(), line, depth)
            return self._collection(items, given), text
        if text[:1] == "{":
            found, text = self._flow_mapping(text[1:].lstrip(), line, depth)
            return self._collection(found, given), text
        plain = _flow_plain(text)
        self._check_plain(plain.strip(), line, given)
        return self._scalar(plain.strip(), True, given), text[len(plain) :]

    def _flow_list(self, text: str, line: _Line, depth: int) -> Tuple[List[Any], str]:
        items: List[Any] = []
        while not text.startswith("]"):
            value, text = self._flow(text, line, depth + 1)
            items.append(value)
            text = self._flow_next(text, "]", line)
        return items, text[1:]

    def _flow_mapping(self, text: str, line: _Line, depth: int) -> Tuple[Mapping, str]:
        found = Mapping()
        merged: List[Mapping] = []
        while not text.startswith("}"):
            key, text = self._flow_key(text, line)
            text, value = text.lstrip(), None
            if text.startswith(":"):
                value, text = self._flow(text[1:], line, depth + 1)
            if key in found:
                self._refuse_at(line.number, "`{}` stands here for the second time; keep one".format(key))
            if key is _MERGE:
                merged += self._mergeable(value, line)
            else:
                found[str(key)], found.lines[str(key)] = value, line.number
            text = self._flow_next(text, "}", line)
        return _with_merged(merged, found), text[1:]

    def _flow_key(self, text: str, line: _Line) -> Tuple[Union[str, _Merge], str]:
        given, text = self._properties(text, line)
        if text[:1] == "*":
            return self._alias_key(text, line)
        if text[:1] in ("[", "{"):
            self._refuse_at(line.number, _NO_KEY)
        is_plain = text[:1] not in ('"', "'")
        if not is_plain:
            key, text = self._quoted(text, line)
        else:
            plain = _flow_plain(text)
            key, text = plain.strip(), text[len(plain) :]
            if key == "<<" and not given.tag:
                return _MERGE, text
            self._check_plain(key, line, given)
        if given.anchored or given.tag:
            self._scalar(key, is_plain, given)
        return key, text

    def _flow_next(self, text: str, closing: str, line: _Line) -> str:
        """The text from the next value on, or from the closing bracket."""
        text = text.lstrip()
        if not text.startswith((",", closing)):
            self._refuse_at(line.number, "a bracket is not closed, or a comma is missing")
        return text[1:].lstrip() if text.startswith(",") else text

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
    """What a plain text means: null, true, false, a number, or itself.

    :raises ValueError: a whole number is larger than the program fnode can hold.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text) or _BASED.match(text):
        number = int(text.replace("_", ""), 0 if _BASED.match(text) else 10)
        if abs(number) > _INT_MAX:
            raise ValueError(text)
        return number
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    special = _SPECIAL.match(text)
    return float(special.group(1) + special.group(2)) if special else text


def _as_tagged(text: str, tag: str) -> Any:
    """What a text means by its tag.

    :raises ValueError: it means nothing by it.
    """
    value = scalar(text.lower() if tag == "bool" else text)
    if tag == "str":
        return text
    # The standard loaders of Python take every text for null that says it is.
    if tag == "null":
        return None
    if tag == "float" and (_INT.match(text) or isinstance(value, float)):
        return float(text.replace("_", "")) if isinstance(value, int) else value
    if type(value).__name__ != tag:
        raise ValueError(text)
    return value


def _with_merged(merged: List[Mapping], own: Mapping) -> Mapping:
    """Keys from elsewhere, the weakest first, and then those of a mapping itself, which win."""
    if not merged:
        return own
    found = Mapping()
    for mapping in merged + [own]:
        found.update(mapping)
        found.lines.update(mapping.lines)
    return found


def _size(value: Any) -> Tuple[int, int, int]:
    """How many values a value is, how many characters they have, and how many levels."""
    if isinstance(value, Mapping):
        sizes = [_size(one) for one in value.values()]
        chars = sum(map(len, value))
    elif isinstance(value, list):
        sizes, chars = [_size(one) for one in value], 0
    else:
        return 1, len(value) if isinstance(value, str) else 0, 0
    values = 1 + sum(size[0] for size in sizes)
    return values, chars + sum(size[1] for size in sizes), 1 + max([size[2] for size in sizes], default=-1)


def _word(text: str) -> str:
    """The anchor, alias or tag that `text` begins with, with its first character."""
    return text[0] + re.match(r"[^\s,\[\]{}]*", text[1:]).group(0)  # type: ignore[union-attr]


def _flow_plain(text: str) -> str:
    """The plain text that `text` begins with, inside of brackets."""
    return re.match(r"(?:[^,\[\]{}:]|:(?![\s,\[\]{}]|$))*", text).group(0)  # type: ignore[union-attr]


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
    before = re.match(r"(?:[&!]\S*\s+)+", text)
    if before:
        end = _key_end(text[before.end() :])
        return before.end() + end if end >= 0 else -1
    if text[:1] == "*":
        # Without a space the colon is part of the alias.
        alias = re.match(r"\*\S+\s+:(?= |$)", text)
        return alias.end() - 1 if alias else -1
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
