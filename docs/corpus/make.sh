#!/usr/bin/env bash
# Remakes the texts of this folder from Debian packages. Needs Debian with apt, root, and `apt-get update` done once.
# usage: docs/corpus/make.sh
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

apt-get install -y -qq bible-kjv bible-kjv-text w3m >/dev/null
(cd "$work" && for package in sqlite3-doc libstb-dev; do apt-get download -qq "$package" 2>/dev/null; done && for deb in *.deb; do dpkg -x "$deb" .; done)

# One chapter heading, then one verse a line, without references: prose a model reads as it reads any book.
book() { # name, range
  bible -f "$2" | awk -v book="$1" '
    match($0, /^[0-9]?[A-Za-z]+[0-9]+:[0-9]+ /) {
      split(substr($0, 1, RLENGTH - 1), reference, ":")
      chapter = reference[1]; sub(/^[0-9]?[A-Za-z]+/, "", chapter)
      if (chapter != last) { printf "%s%s %s\n\n", (last == "" ? "" : "\n"), book, chapter; last = chapter }
      print substr($0, RLENGTH + 1)
    }'
}
book Genesis gen1:1-50:26 >genesis.txt
book Esther esther1:1-10:3 >esther.txt
{
  book Ezra ezra1:1-10:44
  echo
  book Nehemiah neh1:1-13:31
  echo
  cat esther.txt
} >ezra-nehemiah-esther.txt
# Without the page's menu, table of contents (which ends where the first heading comes again) and footer.
w3m -dump -cols 100 -T text/html -O UTF-8 "$work/usr/share/doc/sqlite3/fileformat2.html" | sed 's/[[:space:]]*$//' | cat -s |
  awk '/^1\. The Database File$/ { seen++ } seen > 1 && !/This page last modified/' >sqlite-file-format.txt
sed 's/[[:space:]]*$//' "$work/usr/include/stb/stb_ds.h" >stb_ds.h.txt
