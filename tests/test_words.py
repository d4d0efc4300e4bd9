"""Words: phrases that no reference manual would print, each with a better wording.

Docstrings, comments, messages and pages are read alike, across line breaks. `make lint` runs this file as a
program; it prints each finding as `file:line: found -> better`.

No file may have a finding. A phrase that is common and that readers stumble over gets a line in `PHRASES`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

PHRASES = {
    r"as it (?:must|should) be": "correct, valid; OK: no problems found",
    r"as (?:it was|they were) before": "unchanged",
    r"(?:is|are|was|were|be) told": "receives, is notified, gets an error",
    r"(?:said|told) to be": "declared as, given as",
    r"tells? more": "has details, verbose output",
    r"that (?:is|are|were|was) none": "invalid, missing",
    r"what (?:is|are|was|were) (?:no|none|not)\b": "a noun: an invalid value",
    r"for what is no\b": "for an invalid …",
    r"who(?:so)?ever": "a noun: callers, clients, the owner",
    r"who(?:m|se)? (?:asks|has|comes|waits|reads|writes|knows|follows|holds)": "a noun: the caller",
    r"is (?:his|theirs|another's) to": "is the caller's responsibility",
    r"deserves?\b": "has, gets",
    r"(?:goes|go|going|went|gone) on (?:where|with|from|as)\b": "resumes, continues",
    r"(?:goes|go|going|went|gone) on\b(?! (?:where|with|from|as)\b)": "continues",
    r"one after the other": "in order, in sequence",
    r"(?:made|make|makes|written|build|built|begins?|projected) anew": "rebuilt, recreated, rewritten",
    r"at hand": "available, present, current",
    r"under way": "running, in progress",
    r"\bbesides\b": "also, in addition, except",
    r"brings? (?:it |them |everything )?(?:up )?to files": "flushes",
    r"let(?:s|ting)? go of": "releases",
    r"another than": "different from",
    r"lest\b": "so that … not",
    r"thereof|therein|whereof|wherever that": "of it, in it",
    r"in (?:his|her) turn\b": "in turn, then",
    r"tak(?:es?|en|ing) (?:it |them |one |rows? |all )?for (?:granted|an? )": "treats as",
    r"that there (?:is|was|are|were) (?:not|none|no)\b": "a missing …",
    r"there (?:is|was) no such": "no such",
    r"of (?:its|their|his) own accord": "automatically",
    r"nobody (?:knows|told|could|has)": "subject first: unknown",
    r"as if (?:it|they|nothing) had (?:not|never)": "without effect",
    r"is as (?:it was|if it had not)": "is unchanged",
    r"the (?:one|ones) before\b": "the previous …",
    r"how far (?:it|they|is|has|that)\b": "the progress of, the position of",
    r"since when\b": "the time from which",
    r"gives? (?:it |them )?away": "transfers, discloses",
    r"lays? hands? on": "acquires",
    r"for ever\b": "permanently, forever",
    r"sees? to (?:it|that)": "ensures",
    r"(?:is|are|was|were) (?:meant|intended) (?:by|with)": "means, names",
    r"came of it": "the result",
    r"comes? of (?:it|that)": "the result",
    r"gets? to know": "learns, discovers",
    r"mended": "fixed, repaired, corrected",
    r"\bmend(?:s|ing)?\b": "fix, repair, correct",
    r"so many\b": "at most COUNT, N",
    r"what (?:it|they) (?:is|are) of": "its subject",
    r"of (?:then|now)\b": "at that time, current",
    r"no later than that|later than that": "after",
    r"anything but": "except",
    r"all there is": "everything",
    r"is (?:yet )?to come": "follows",
    r"may (?:well )?be (?:gone|there)\b": "may (not) exist",
    r"as (?:dbmate|protobuf|nohup|SQL|JSON|Git) has it": "as in …",
    r"stands? (?:before|beside|in the way)": "precedes, is next to, blocks",
    r"in (?:its|their) stead": "instead",
    r"twice is once": "idempotent",
    r"(?:it|one|this|which) is said\b": "is stated, given",
    r"says? so\b": "reports it, states this",
    r"once more\b": "again",
    r"in an? \w+ of (?:its|their) own": "in its own …, in a separate …",
    r"without a word\b": "silently, without an error",
}

GAP = r'(?:\s|(?<=\s)(?:#|//|"|f"|\'|\*)+|["\'](?=\s))+'
ROOMS = "proto store audit migrations feed fleet rpc consumers console everlog"
FOLDERS = ["", *f".ci docs tests {ROOMS} benchmarks examples".split()]
KINDS = {".py", ".md", ".proto", ".toml", ".yml", ""}


class Finding(NamedTuple):
    room: str
    file: str
    line: int
    found: str
    better: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.found!r} -> {self.better}"


@cache
def patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return the phrases; a space also matches a line break with a comment mark, or between two strings."""
    return [
        (re.compile(r"(?<![\w-])" + phrase.lower().replace(" ", GAP)), better)
        for phrase, better in PHRASES.items()
    ]


def files() -> Iterator[tuple[str, Path]]:
    """Yield each file whose prose is checked, with its room."""
    for folder in FOLDERS:
        at = ROOT / folder
        for path in sorted(at.rglob("*") if folder else at.glob("*")):
            if path.suffix not in KINDS or not path.is_file() or "_pb2" in path.name:
                continue
            if path.suffix == "" and path.name != "Makefile":
                continue
            if path != Path(__file__).resolve():
                yield (folder or path.name), path


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the phrases in a text: line, phrase, better wording."""
    lowered = text.lower()
    for pattern, better in patterns():
        for match in pattern.finditer(lowered):
            at, end = match.span()
            yield lowered.count("\n", 0, at) + 1, " ".join(lowered[at:end].split()), better


@cache
def everything() -> list[Finding]:
    """Return all findings, by file and line."""
    return [
        Finding(room, str(path.relative_to(ROOT)), *found)
        for room, path in files()
        for found in sorted(findings(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.long  # `make lint` runs it
def test_the_prose_has_no_phrase_that_a_manual_would_not_print() -> None:
    found = everything()
    assert not found, f"{len(found)} findings, the last ones:\n  " + "\n  ".join(map(str, found[-20:]))


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("All is as it must be.", 1, "as it must be"),
        ("a\n# what is\n# under\n# way", 3, "under # way"),
        ('"followers are "\n"told so"', 1, 'are " "told'),
        ("// Whoever asks", 1, "whoever"),
    ],
)
def test_a_phrase_is_found_across_lines(text: str, line: int, found: str) -> None:
    assert (line, found) in [one[:2] for one in findings(text)]


def test_plain_sentences_have_no_finding() -> None:
    text = "Return the rows of `table` in key order. Interrupted work resumes where it stopped."
    assert list(findings(text)) == []


if __name__ == "__main__":
    sys.stdout.writelines(f"{found}\n" for found in everything())
    if "--counts" in sys.argv:
        counts = Counter(one.room for one in everything())
        sys.stdout.writelines(f"{room}: {count}\n" for room, count in sorted(counts.items()))
    sys.exit(bool(everything()))
