"""What the site has beside the pages in docs/: the command line, from the application, and pages from elsewhere."""

import posixpath
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lstm_deploy.cli import app

ROOT = Path(__file__).parent
ELSEWHERE = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "exported/README.md": "bundle.md",
    **{f"benchmarks/results/{path.name}": f"results/{path.name}" for path in ROOT.glob("benchmarks/results/*.md")},
}
"""Pages of the site by where they lie in the repository, for those that are not in docs/."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")
COMMAND_LINE = """\
# Command line

Every command has `--help`, and `--json` if its result is data: one JSON document on standard output. Progress and
warnings go to standard error. An error is one sentence; set `LSTM_DEPLOY_DEBUG=1` for the traceback.

| exit code | |
|---|---|
| 0 | success |
| 1 | failure |
| 2 | wrong usage or input |
| 3 | parity failed |
| 4 | the requested provider is not available |
| 5 | slower than allowed |
| 130 | interrupted |

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    files.append(File.generated(config, "cli.md", content=command_line()))
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links are written for the repository; on the site some of their targets lie elsewhere."""
    here = page.file.src_uri
    source = next((source for source, name in ELSEWHERE.items() if name == here), f"docs/{here}")

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        target = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(here))}"

    return LINK.sub(on_site, markdown)


def command_line() -> str:
    """Each command with its usage, arguments and options, as Markdown."""
    root = typer.main.get_command(app)
    context = root.make_context("lstm-deploy", [], resilient_parsing=True)
    commands = [root.get_command(context, name) for name in root.list_commands(context)]
    rows = "".join(f"| [`{each.name}`](#{each.name}) | {each.get_short_help_str(200)} |\n" for each in commands)
    return f"{COMMAND_LINE}| command | |\n|---|---|\n{rows}\n" + "\n".join(_section(each, context) for each in commands)


def _section(command: Any, parent: Any) -> str:
    """A command, with its options in the panels of its help."""
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    usage = " ".join(["lstm-deploy", command.name, *command.collect_usage_pieces(context)])
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and parameter.name != "help":
            name, text = record[0], record[1].replace("|", "\\|")  # code needs no backslash
            panel = parameter.rich_help_panel or f"{parameter.param_type_name}s".capitalize()
            panels.setdefault(panel, []).append(f"| `{name}` | {text} |\n")
    tables = "".join(f"\n| {panel} | |\n|---|---|\n{''.join(rows)}" for panel, rows in panels.items())
    _, _, examples = (command.epilog or "").partition("Examples:\n")
    examples = f"\n```sh\n{dedent(examples).rstrip()}\n```\n" if examples else ""
    return f"## {command.name}\n\n{command.help}\n\n```console\n$ {usage}\n```\n{examples}{tables}"
