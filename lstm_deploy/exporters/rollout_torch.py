"""The rollout of a model as TorchScript: the traced model inside the loops written below; `rollouts` says what they do.

The texts are TorchScript's own Python. In them `@name` stands for `name_0, name_1, …`, one for each state tensor of the
contract, and a line that begins with `each` is repeated for each, with its number for `#`.
"""

import warnings
from pathlib import Path

import torch
from torch import nn

from lstm_deploy.contract import (
    CONTRACT_FILE,
    MIN_TEMPERATURE,
    Forecast,
    LanguageModel,
    Signature,
    carries_state,
    layout_of,
    rollout_contract,
    window_of,
)
from lstm_deploy.exporters.onnx_rollout import per_state

CHOOSE = """
def choose(self, said: Tensor, u: Tensor, temperature: float, top_k: int) -> Tensor:
    if temperature < COLDEST:
        return said.argmax(-1)
    candidates = min(top_k, said.size(1)) if top_k > 0 else said.size(1)
    least = said.topk(candidates, -1).values[:, -1:]
    allowed = said.masked_fill(said < least, float("-inf"))
    cumulative = torch.softmax(allowed / temperature, -1).cumsum(-1)
    total = cumulative[:, -1:]
    passed = (cumulative <= u.unsqueeze(1) * total).sum(-1)
    return torch.minimum(passed, (cumulative < total).sum(-1))
"""

GENERATE = """
def forward(
    self, x: Tensor, lengths: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, stop: Tensor, @@in
) -> Tuple[Tensor, @:Tensor]:
    t, k, end = float(temperature), int(top_k), int(stop)
    least, most = int(lengths.min()), int(lengths.max())
    said, @state = self.step(x[:, :least], @in)
    for time in range(least, most):
        further, @after = self.step(x[:, time : time + 1], @state)
        reads = time < lengths
        said = torch.where(reads.unsqueeze(1), further, said)
        mask = reads.reshape(STATE_SHAPE)
        each state_# = torch.where(mask, after_#, state_#)
    token = self.choose(said, noise[:, 0], t, k)
    made = [token]
    alive = token != end
    for index in range(1, noise.size(1)):
        if not bool(alive.any()):
            break
        said, @state = self.step(token.unsqueeze(1), @state)
        token = torch.where(alive, self.choose(said, noise[:, index], t, k), end)
        alive = token != end
        made.append(token)
    return torch.stack(made, 1), @state
"""

CARRY = """
def forward(self, x: Tensor, steps: Tensor, @@in) -> Tuple[Tensor, @:Tensor]:
    value, @state = self.step(x, @in)
    made = [value]
    for _ in range(int(steps) - 1):
        value, @state = self.step(value.unsqueeze(1), @state)
        made.append(value)
    return torch.stack(made, 1), @state
"""

RESET = """
def forward(self, x: Tensor, steps: Tensor) -> Tuple[Tensor]:
    rows = x[:, LATEST:]
    each start_# = self.initial_#.expand(REPEATS)
    made: List[Tensor] = []
    for _ in range(int(steps)):
        value, @unused = self.step(rows, @start)
        made.append(value)
        rows = torch.cat((rows[:, 1:], value.unsqueeze(1)), 1)
    return (torch.stack(made, 1),)
"""


def export_rollout_torchscript(model_path: Path, path: Path) -> None:
    """Write the rollout of a TorchScript artifact of ours; raises `InputError` for a model that has none."""
    extra = {CONTRACT_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        model = torch.jit.load(str(model_path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
        signature = Signature.from_json(extra[CONTRACT_FILE])
        contract = rollout_contract(signature)
        holder = nn.Module()
        holder.model = model
        for number, value in enumerate(signature.initial_state(1).values()):
            holder.register_buffer(f"initial_{number}", torch.from_numpy(value))
        rolled = torch.jit.script(holder)
        for text in _methods(signature):
            rolled.define(f"{text}\n")
        torch.jit.save(rolled, str(path), _extra_files={CONTRACT_FILE: contract.to_json()})


def _methods(signature: Signature) -> list[str]:
    """The methods of the module, each after those that it calls."""
    generates = isinstance(signature.task, LanguageModel)
    text = GENERATE if generates else CARRY if carries_state(signature) else RESET
    batch_first = signature.batch_axis_of_state == 0
    numbers = {
        "COLDEST": repr(MIN_TEMPERATURE),
        "STATE_SHAPE": "-1, 1, 1" if batch_first else "1, -1, 1",
        "REPEATS": "x.size(0), -1, -1" if batch_first else "-1, x.size(0), -1",
    }
    if not carries_state(signature):
        numbers["LATEST"] = str(-window_of(signature))
    texts = [_step(signature), *([CHOOSE] if generates else []), text]
    for name, value in numbers.items():
        texts = [each.replace(name, value) for each in texts]
    return [per_state(each, signature.state_inputs, lambda spec: f"{spec.name}: Tensor") for each in texts]


def _step(signature: Signature) -> str:
    """Rows as every rollout has them, made such as this model takes them, and what it says of the last."""
    layout = layout_of(signature)
    rows, said = "rows", "output_0"
    if layout.one_hot:
        rows = f"torch.nn.functional.one_hot({rows}, {layout.width}).to(torch.float)"
    elif signature.inputs[0].dtype == "int32":
        rows = f"{rows}.to(torch.int)"
    elif isinstance(signature.task, Forecast) and not layout.has_features:
        rows = f"{rows}.squeeze(2)"
    if layout.batch_axis:
        rows = f"{rows}.transpose(0, 1)"
    if layout.y_time_axis is not None:
        said = f"{said}.select({layout.y_time_axis}, -1)"
    if not layout.y_has_features:
        said = f"{said}.unsqueeze(1)"
    outputs = ", ".join(f"output_{number}" for number in range(len(signature.outputs)))
    return (
        "def step(self, rows: Tensor, @@before) -> Tuple[Tensor, @:Tensor]:\n"
        f"    {outputs}, @after = self.model({rows}, @before)\n"
        f"    return {said}, @after\n"
    )
