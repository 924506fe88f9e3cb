"""200 characters as one call beside one call for each, at the size of a common character model.

`make bench-streams` calls it. Results go to `benchmarks/results/rollouts.json` and `.md`. Weights are random: latency
does not depend on them.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import measure, ratio_text, write
from torch import nn

import lstm_deploy
from lstm_deploy.contract.tasks import LanguageModel
from lstm_deploy.runtimes.stepping import choose

SIZE, HIDDEN, LAYERS, PROMPT, STEPS = 65, 128, 2, 12, 200
LABELS = {
    "session.run": "onnxruntime, `session.run` for each step",
    "session.run again": "the same again",
    "rollout": "`rollout.onnx`",
    "rollout.int8": "`rollout.int8.onnx`",
    "session.run.int8": "int8, `session.run` for each step",
    "eager": "PyTorch, the author's loop",
    "sampled": "`rollout.onnx`, drawn from 20",
    "session.run sampled": "`session.run` and numpy, drawn from 20",
}


class CharLSTM(nn.Module):
    """One-hot characters in, logits out, as such networks are written."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIZE, HIDDEN, LAYERS, batch_first=True)
        self.fc = nn.Linear(HIDDEN, SIZE)

    def forward(self, x: torch.Tensor, hidden: Any) -> tuple[torch.Tensor, Any]:
        out, hidden = self.lstm(x, hidden)
        return self.fc(out[:, -1]), hidden


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = CharLSTM().eval()
    with tempfile.TemporaryDirectory() as folder:
        lstm_deploy.export(
            module,
            Path(folder) / "b",
            inputs={"x": f"float32[batch,seq,{SIZE}]"},
            task=LanguageModel(vocabulary=tuple(map(chr, range(32, 32 + SIZE)))),
            quantize="int8",
        )
        found = measure(_calls(Path(folder) / "b", module), STEPS, 41, "session.run")
    rows = [
        [LABELS[name], f"{timed['us']:.1f}", ratio_text(timed), f"{1 / timed['ratio']:.2f}"]
        for name, timed in found.items()
    ]
    notes = (
        f"LSTM({SIZE}, {HIDDEN}, {LAYERS} layers) and Linear({HIDDEN}, {SIZE}), one-hot, batch 1, a prompt of {PROMPT} "
        f"characters and {STEPS} more. The third column is the time over `session.run`'s, within rounds, with its 95 % "
        f"interval; eager PyTorch takes {found['eager']['us'] / found['rollout']['us']:.1f} times as long as "
        "`rollout.onnx`."
    )
    write("rollouts", {"results": found}, ["200 characters", "µs a character", "ratio", "times faster"], rows, notes)


def _calls(path: Path, module: nn.Module) -> dict[str, Any]:
    model = lstm_deploy.open(path)
    rng = np.random.default_rng(0)
    prompt, noise = rng.integers(0, SIZE, (1, PROMPT)), rng.random((1, STEPS), np.float32)
    rows = np.eye(SIZE, dtype=np.float32)

    def rollout(precision: str = "float32", temperature: float = 0.0, top_k: int = 0) -> Any:
        feeds = {
            "x": prompt,
            "lengths": np.array([PROMPT]),
            "noise": noise,
            "temperature": np.array(temperature, np.float32),
            "top_k": np.array(top_k),
            "stop": np.array(-1),
        }
        return lambda _: model.rollout(feeds, precision=precision)["y"]

    def by_steps(precision: str = "float32", temperature: float = 0.0, top_k: int = 0) -> Any:
        run = model.runtime(precision=precision).session.run  # type: ignore[attr-defined]
        state = model.signature.initial_state(1)

        def call(steps: int) -> Any:
            x, (h, c), made = rows[prompt], state.values(), []
            for step in range(steps):
                logits, h, c = run(None, {"x": x, "h_in": h, "c_in": c})
                if temperature:
                    token = int(choose(logits, noise[:, step], temperature, top_k)[0])
                else:
                    token = int(logits[0].argmax())
                made.append(token)
                x = rows[None, None, token]
            return np.array([made])

        return call

    def eager(steps: int) -> Any:
        with torch.inference_mode():
            hidden = (torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN))
            logits, hidden = module(torch.from_numpy(rows[prompt]), hidden)
            made = [int(logits[0].argmax())]
            for _ in range(steps - 1):
                x = nn.functional.one_hot(torch.tensor([[made[-1]]]), SIZE).float()
                logits, hidden = module(x, hidden)
                made.append(int(logits[0].argmax()))
            return np.array([made])

    calls = {
        "session.run": by_steps(),
        "session.run again": by_steps(),
        "rollout": rollout(),
        "session.run.int8": by_steps("int8"),
        "rollout.int8": rollout("int8"),
        "eager": eager,
        "session.run sampled": by_steps("float32", 1.0, 20),
        "sampled": rollout("float32", 1.0, 20),
    }
    for name, other in (("rollout", "session.run"), ("rollout", "eager"), ("sampled", "session.run sampled")):
        assert np.array_equal(calls[name](STEPS), calls[other](STEPS)), f"{name} and {other} differ"
    return calls


if __name__ == "__main__":
    main()
