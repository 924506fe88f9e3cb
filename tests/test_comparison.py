"""What docs/comparison.md says of PyTorch's exporters is what the installed ones do."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
COMPARISON = (DOCS / "comparison.md").read_text(encoding="utf-8")


def test_the_program_prints_what_the_page_says(tmp_path):
    """In a process of its own: the second export of a process is another than the first."""
    (program,) = re.findall(r"^```python\n(.*?)^```", COMPARISON, re.DOTALL | re.MULTILINE)
    (printed,) = re.findall(r"^```text\n(.*?)^```", COMPARISON, re.DOTALL | re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == printed


def test_links_within_the_documentation_lead_somewhere():
    for link in re.findall(r"\]\((?!https://)([^)]+)\)", COMPARISON):
        file, _, section = link.partition("#")
        text = (DOCS / file).read_text(encoding="utf-8") if file else COMPARISON
        headings = [re.sub(r"[^\w -]", "", heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
        assert section in ("", *(heading.lower().replace(" ", "-") for heading in headings)), link
