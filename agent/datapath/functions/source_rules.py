"""Rules for a user's source before a compiler sees it: what could read files of the host is refused. Pure.

The sandbox of the compiler holds without these rules; they say clearly what is not possible, and keep names of files
out of messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.datapath.functions.refusals import SourceError

MOST_BYTES = 256 << 10
"""Bytes of a source from a file of the host; documents hold less (MAX_SOURCE of protocol.documents)."""
_DIRECTIVES = frozenset(
    ("include", "define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "error", "warning", "pragma", "")
)
_INCLUDES = re.compile(r'(?:"stage\.h"|<stage\.h>|<(?:linux|asm)/[a-z0-9_]+\.h>|<std(?:int|def|bool)\.h>)\Z')
_PRAGMAS = re.compile(r"(?:unroll|clang\s+loop|nounroll)\b")
_TRIGRAPHS = {"??=": "#", "??/": "\\"}
_SPLICE = re.compile(r"\\[ \t\f\v]*\n")
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|(?P<text>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|(?P<end>\n)|[^/"'\n]+|/""",
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"^[ \t\f\v]*(?:#|%:)[ \t\f\v]*(\w*)[ \t\f\v]*(.*)$")
_WORDS = re.compile(r"\b(asm|__asm|__asm__|__has_include|__has_include_next|__has_embed|_Pragma|__pragma)\b")


def check_source(source: str) -> None:
    """Raise SourceError if a source uses what is not available to functions; the message has the line."""
    if len(source.encode()) > MOST_BYTES:
        raise SourceError(f"the source has {len(source.encode())} bytes, the limit is {MOST_BYTES}")
    if "\0" in source:
        raise SourceError("the source contains a NUL character: remove it")
    for number, line, bare in _logical_lines(source):
        if found := _DIRECTIVE.match(line):
            _check_directive(number, found[1], found[2].strip())
        if word := _WORDS.search(bare):
            what = "inline assembly" if "asm" in word[1] else word[1]
            raise SourceError(f"line {number}: {what} is not available to functions: write it in plain C")


def _check_directive(number: int, name: str, rest: str) -> None:
    if name not in _DIRECTIVES:
        raise SourceError(f"line {number}: #{name} is not available to functions: remove it")
    if name == "include" and not _INCLUDES.match(rest):
        raise SourceError(
            f'line {number}: #include {rest[:60]} is not available to functions: include "stage.h", and <linux/NAME.h> '
            "of the kernel's UAPI"
        )
    if name == "pragma" and not _PRAGMAS.match(rest):
        raise SourceError(f"line {number}: #pragma {rest[:60]} is not available: only unroll and clang loop are")


def _logical_lines(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield the lines as the preprocessor sees them: number, text without comments, and that also without strings.

    Continued lines come as one, as do those that a comment joins. Its number is that of its first line.
    """
    text, spliced = _spliced(source)
    number, seen, passed = 1, 0, 0
    line: list[str] = []
    bare: list[str] = []
    for token in _TOKEN.finditer(text):
        ends = token[0].count("\n")
        if token["end"]:
            yield number, "".join(line), "".join(bare)
            line, bare = [], []
        else:
            plain = " " if token["comment"] else token[0]
            line.append(plain)
            bare.append('""' if token["text"] else plain)
        seen += ends
        while passed < len(spliced) and spliced[passed] < token.end():
            passed += 1
        if token["end"]:
            number = 1 + seen + passed
    yield number, "".join(line), "".join(bare)


def _spliced(source: str) -> tuple[str, list[int]]:
    """Join lines that end in a backslash; return the text, and where in it the joints are."""
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    for trigraph, character in _TRIGRAPHS.items():
        text = text.replace(trigraph, character)
    parts = _SPLICE.split(text)
    joints, at = [], 0
    for part in parts[:-1]:
        at += len(part)
        joints.append(at)
    return "".join(parts), joints
