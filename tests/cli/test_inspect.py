from command_line import run

from lstm_deploy.artifacts import Bundle

LONG = tuple(
    f"the axis {name} is fixed for a reason that takes a sentence of more than eighty letters" for name in "abc"
)


def test_all_findings_and_notes_of_a_bundle_are_shown_each_on_a_line(bundle_copy):
    Bundle(bundle_copy).update(findings=LONG, notes=LONG[:2])
    lines = run("inspect", bundle_copy)[0].splitlines()
    assert [line for line in lines if line.startswith("inferred: ")] == [f"inferred: {text}" for text in LONG]
    assert [line for line in lines if line.startswith("note: ")] == [f"note: {text}" for text in LONG[:2]]


def test_all_files_that_were_changed_are_shown(bundle_copy):
    artifacts = [artifact.path for artifact in Bundle(bundle_copy).manifest.artifacts]
    for name in artifacts:
        (bundle_copy / name).write_bytes(b"x")
    lines = run("inspect", bundle_copy)[0].splitlines()
    assert [line.partition(": ")[2] for line in lines if line.startswith("changed since export")] == artifacts
