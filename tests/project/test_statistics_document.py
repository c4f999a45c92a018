import re

import pytest
from helpers.places import ROOT

DOCUMENT = ROOT / "docs" / "statistics.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_say_the_truth(number):
    exec(compile(EXAMPLES[number], f"{DOCUMENT.name}, example {number + 1}", "exec"), {})


def test_there_are_examples():
    assert len(EXAMPLES) == 6
