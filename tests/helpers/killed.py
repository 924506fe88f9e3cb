"""A program that writes a bundle again and again, and is killed before each line of ours, at its first two runs.

    python killed.py BUNDLE FOLDER force|fresh [in-two-steps]

After each kill it looks: there is the old bundle or the new one, whole; and the next one leaves nothing behind.
"""

import os
import shutil
import signal
import sys
from collections import Counter
from itertools import count
from pathlib import Path

from lstm_deploy.artifacts import Bundle, atomic_bundle, bundle, files, replacement, scratch

OURS = {module.__file__ for module in (bundle, files, replacement, scratch)}


def write(source, path, note):
    """A bundle with this note."""
    with atomic_bundle(path, force=True) as partial:
        for file in source.iterdir():
            if file.is_file():
                shutil.copy(file, partial)
        Bundle(partial).update(notes=(note,))


def killed_at(line, function, *arguments):
    """Call it in a process that is killed before it runs the line of this number; False if it has fewer lines."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        return os.WIFSIGNALED(status)
    numbers, runs = count(), Counter()

    def trace(frame, event, _):
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place[0] not in OURS:
            return None
        if event == "line":
            runs[place] += 1
            if runs[place] <= 2 and next(numbers) == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        function(*arguments)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main(source, folder, force, two_steps):
    path = folder / "b"
    if two_steps:
        replacement.exchange = lambda *_: False
    for line in count():
        if force:
            write(source, path, "old")
        again = killed_at(line, write, source, path, "new")
        if force or path.exists():
            found = Bundle(path)
            assert found.manifest.notes in ((("old",), ("new",)) if force else (("new",),)), found.manifest.notes
            assert found.changed_files() == [], f"line {line}: {found.changed_files()}"
        write(source, path, "newest")
        assert os.listdir(folder) == ["b"], f"line {line}: {os.listdir(folder)}"
        assert Bundle(path).manifest.notes == ("newest",)
        if not again:
            break
        shutil.rmtree(path)
    sys.stdout.write(str(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "force", "in-two-steps" in sys.argv)
