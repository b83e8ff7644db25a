"""Counts the words of Python's standard library, one task per file. Run it with

python examples/word_count.py
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

from running import worker

from celeriac import Celeriac
from celeriac.progress import track

app = Celeriac("word_count")


@app.task
def count_words(path: str) -> dict[str, int]:
    """Count the words of one file."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(re.findall(r"[a-z]{4,}", text.lower()))


def main(files: int = 200) -> None:
    """Count the words of all files, in order, with at most 50 calls in flight."""
    paths = [str(path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]]
    words: Counter[str] = Counter()
    with worker(app):
        for counted in track(app.map(count_words, paths, window=50), "Counting", total=len(paths)):
            words.update(counted)
    print(f"{words.total():,} words in {len(paths)} files; the most frequent:")
    for word, number in words.most_common(5):
        print(f"  {number:>6,} {word}")


if __name__ == "__main__":
    main()
