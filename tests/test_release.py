"""What a release consists of beside the code: one version, changes, how to cite and to report."""

import re

import pytest
import yaml
from installations import OURS, PROJECT, ROOT
from packaging.requirements import Requirement

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_changes_begin_with_the_version():
    first = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == PROJECT["version"]


def test_the_version_is_written_in_one_place():
    """All else reads it from the installed package."""
    pattern = re.compile(rf"\b{re.escape(PROJECT['version'])}\b")
    files = [
        *(ROOT / "lstm_deploy").rglob("*.py"),
        *(ROOT / name for name in ("CITATION.cff", "Makefile", "README.md")),
    ]
    assert [file for file in files if pattern.search(file.read_text(encoding="utf-8"))] == []


def test_the_citation_is_of_this_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "authors"} <= set(citation)
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_whoever_reports_is_asked_for_the_environment(template):
    asked = yaml.safe_load(template.read_text(encoding="utf-8"))["body"]
    (field,) = [each for each in asked if each["id"] == "env"]
    assert "lstm-deploy env" in field["attributes"]["label"]
    assert field["validations"]["required"]


def test_there_are_templates_for_reports():
    assert TEMPLATES


@pytest.mark.parametrize(("whole", "left_out"), [("all", {"all", "dev", "docs"}), ("dev", {"dev", "docs"})])
def test_an_extra_that_has_the_others_lacks_none(whole, left_out):
    extras = PROJECT["optional-dependencies"]
    reached, waiting = set(), [whole]
    while waiting:
        reached.add(extra := waiting.pop())
        waiting += [each for line in extras[extra] if (r := Requirement(line)).name == OURS for each in r.extras]
    assert reached - {whole} >= set(extras) - left_out


def test_the_line_of_the_readme_installs_what_its_commands_need():
    assert "pip install -c constraints.txt '.[all]'" in (ROOT / "README.md").read_text(encoding="utf-8")
