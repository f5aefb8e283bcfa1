"""Runs every Python example of a Markdown file, in one name space: ``python tests/run_readme.py README.md``."""

import re
import sys
from pathlib import Path

blocks = re.findall(r"^```python\n(.*?)^```", Path(sys.argv[1]).read_text(), re.MULTILINE | re.DOTALL)
names: dict = {}
for block in blocks:
    exec(compile(block, sys.argv[1], "exec"), names)
print(f"{len(blocks)} examples of {sys.argv[1]} ran")
sys.exit(0 if blocks else 1)
