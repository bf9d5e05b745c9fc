"""What the chart refuses, and that it says why: refusals.yaml, case by case."""

import pathlib
import re

import helm_python

from chart import CHART, merged, read, sets

CASES = pathlib.Path(__file__).with_name("refusals.yaml")


def cases():
    return read(CASES)


def wrong(chart):
    """Cases that are rendered after all, or refused for another reason; refusals of the templates that no case shows."""
    bases, said = sets(), []
    for case in cases():
        base = bases[case["base"]] if case["base"] else {}
        try:
            chart.render(merged(base, case["values"]))
        except (helm_python.errors.HelmRenderError, helm_python.errors.HelmValuesError) as error:
            said.append(str(error))
            for words in case["says"]:
                if words not in said[-1]:
                    yield f"{case['name']}: it says nothing of {words!r}, but: {error}"
        else:
            yield f"{case['name']}: it is rendered"
    for line in (CHART / "templates/_refusals.tpl").read_text().splitlines():
        if "append $wrong" in line and not any(re.search(_pattern(line), message) for message in said):
            yield f"no case shows: {line.strip()}"


def _pattern(line):
    """The words of a refusal, with anything in the places of its values."""
    words = re.split("%[a-z]", line.split('"')[1])
    return r"\* " + ".+".join(map(re.escape, words)) + r"\n"
