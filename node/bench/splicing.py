"""30,483 five-prime splice sites of RNA and how often each is spliced, cut into four labs.

Each site is nine bases, so a table of nine columns with four levels, a token for each.  A lab
has the sites with one base at the last exon position, as if each had made another library; the
labs differ in what they saw and in how many of their sites are spliced at all (1.4 to 14 %).

Source: Wong, Kinney and Krainer, Mol. Cell 2018, as `mpsa` in the package `mavenn` (MIT).  The
package is 14 MB and brings TensorFlow; its file is read out of the wheel, nothing is installed.
"""

import csv
import gzip
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ee.spec import Column, ModelSpec

WHEEL = "mavenn==1.1.4"
_FILE = "mavenn/examples/datasets/mpsa_data.csv.gz"
LABS = ("A", "C", "G", "U")
PLACE = 2
"""The last base of the exon; the two after it are the intron's GU or GC."""
EACH = 1_000
"""Sites of a lab: few enough that one alone does not see enough of them."""
BASES = tuple(Column(f"base{n}", levels=LABS) for n in range(9))
TASK = {"id": "site", "label": "psi", "above": 0.5, "held_out_percent": 30}
"""log10 of the per cent that is spliced in; 0.5 is three of a hundred."""


def spec(seed: int) -> ModelSpec:
    """A transformer over nine bases."""
    return ModelSpec(
        columns=BASES, width=32, layers=2, heads=4, kv_heads=4, inner=64, seed=seed
    )


def tables() -> dict[str, bytes]:
    """Lab to its table as CSV."""
    with zipfile.ZipFile(_wheel()) as archive:
        text = gzip.decompress(archive.read(_FILE)).decode()
    labs: dict[str, list[list[str]]] = {name: [] for name in LABS}
    for row in csv.DictReader(io.StringIO(text)):
        labs[row["x"][PLACE]].append([row["x"], *row["x"], row["y"]])
    header = ["site", *(column.name for column in BASES), "psi"]
    return {name: _table(header, rows) for name, rows in labs.items()}


def _table(header: list[str], rows: list[list[str]]) -> bytes:
    # By the site's own digest: the file's order is not known to mean nothing.
    rows = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header, *rows[:EACH]])
    return out.getvalue().encode()


def _wheel() -> Path:
    """The wheel in the user's cache, fetched at the first call."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache, "rexis", "mavenn")
    found = sorted(folder.glob("mavenn-*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), WHEEL], check=True)
        found = sorted(folder.glob("mavenn-*.whl"))
    return found[0]
