"""Cuts real texts into passages of some 50 words: documentation and public-domain texts out of Debian packages.

usage: passages.py WORK CORPUS OUT COUNT
  WORK    folder to download and unpack packages in
  CORPUS  folder with more texts (docs/corpus)
  OUT     takes one JSON string per line, distinct passages in a seeded random order
  COUNT   passages wanted
"""

import gzip
import hashlib
import html.parser
import json
import random
import re
import subprocess
import sys
from pathlib import Path

# Package, and a pattern of the files that hold English prose.
PACKAGES = {
    "linux-doc-6.1": r"/html/.*\.html$",
    "python3.11-doc": r"\.html$",
    "postgresql-doc-15": r"\.html$",
    "sqlite3-doc": r"\.html$",
    "apache2-doc": r"/en/.*\.html$|\.en\.html$|\.html\.en$",
    "debian-handbook": r"/en-US/.*\.html$",
    "debian-reference-en": r"\.html$",
    "git-doc": r"\.txt$",
    "perl-doc": r"\.pod$",
    "anarchism": r"\.html$",
    "miscfiles": r"\.gz$",
    "dict-gcide": r"\.dict\.dz$",
}
# No source may fill more than this share of the passages.
LARGEST_SHARE = 0.2
BLOCKS = set("p div li td th tr dd dt h1 h2 h3 h4 h5 h6 br blockquote section article table ul ol dl body".split())
HIDDEN = set("script style pre nav head header footer".split())


class Prose(html.parser.HTMLParser):
    """Collects the paragraphs of a page."""

    def __init__(self):
        super().__init__()
        self.paragraphs = []
        self.current = []
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        if tag in HIDDEN:
            self.hidden += 1
        if tag in BLOCKS:
            self.end()

    def handle_endtag(self, tag):
        if tag in HIDDEN and self.hidden:
            self.hidden -= 1
        if tag in BLOCKS:
            self.end()

    def handle_data(self, data):
        if not self.hidden:
            self.current.append(data)

    def end(self):
        if self.current:
            self.paragraphs.append("".join(self.current))
            self.current = []


def paragraphs(path):
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    text = data.decode("utf-8", "replace")
    if ".html" in path.name:
        parser = Prose()
        parser.feed(text)
        parser.end()
        return parser.paragraphs
    if path.suffix == ".pod":
        text = re.sub(r"[A-Z]<+\s*(.*?)\s*>+", r"\1", text)
        return [p for p in re.split(r"\n\s*\n", text) if not p.startswith(("=", " ", "\t"))]
    return re.split(r"\n\s*\n", text)


def passages(path):
    """Pieces of 40 to 60 words: short paragraphs are joined with those that follow, long ones cut evenly."""
    pending = []
    for paragraph in paragraphs(path):
        words = paragraph.split()
        letters = sum(len(word) for word in words if word.strip(".,;:()\"'").isalpha())
        # Tables, code and lists of names are no prose.
        if len(words) < 6 or letters < 0.6 * sum(map(len, words)):
            continue
        pending += words
        if len(pending) < 40:
            continue
        pieces = max(1, round(len(pending) / 50))
        for piece in range(pieces):
            part = pending[len(pending) * piece // pieces : len(pending) * (piece + 1) // pieces]
            if 40 <= len(part) <= 64:
                yield " ".join(part)
        pending = []


def sources(work, corpus):
    """Files by source. A package that cannot be had is left out, and said so."""
    found = {"docs/corpus": sorted(corpus.glob("*.txt"))}
    for package, pattern in PACKAGES.items():
        folder = work / package
        if not (folder / "usr").exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True)
                subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), "."], cwd=folder, check=True)
            except (subprocess.CalledProcessError, OSError, StopIteration) as error:
                print(f"{package} cannot be had: {error}", file=sys.stderr)
        found[package] = sorted(
            p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and re.search(pattern, str(p))
        )
    if sum(map(len, found.values())) < 1000:  # not Debian: what documentation is installed
        installed = Path("/usr/share/doc")
        found["installed"] = sorted(p for p in installed.rglob("*") if p.is_file() and re.search(r"\.(html|txt|gz)$", p.name))
    return found


def main():
    work, corpus, out, count = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    work.mkdir(parents=True, exist_ok=True)
    seen = set()
    chosen = []
    totals = {}
    rest = []
    for source, files in sources(work, corpus).items():
        mine = []
        for path in files:
            try:
                for passage in passages(path):
                    key = hashlib.blake2b(re.sub(r"\W+", "", passage.lower()).encode(), digest_size=16).digest()
                    if key not in seen:
                        seen.add(key)
                        mine.append(passage)
            except (OSError, EOFError, AssertionError) as error:
                print(f"{path} skipped: {error}", file=sys.stderr)
        random.Random(f"{source} 1").shuffle(mine)
        share = int(LARGEST_SHARE * count)
        chosen += mine[:share]
        rest += mine[share:]
        totals[source] = min(len(mine), share)
    shuffler = random.Random(2)
    if len(chosen) < count:
        shuffler.shuffle(rest)
        chosen += rest[: count - len(chosen)]
    shuffler.shuffle(chosen)
    chosen = chosen[:count]
    out.write_text("".join(json.dumps(passage) + "\n" for passage in chosen))
    print(json.dumps({"passages": len(chosen), "sources": totals}))


main()
