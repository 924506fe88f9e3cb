"""Rollouts: many steps in one call, the model fed with its own outputs. Which models have one, and its contract.

Its inputs and outputs are the same whatever the model's own layout is:

    forecast   x [batch, seq, features], steps []                          -> y [batch, steps, features]
    generate   x [batch, seq] tokens, lengths [batch],
               noise [batch, steps], temperature [], top_k [], stop []     -> y [batch, steps] tokens

and, if the state is carried, the model's own `h_in, c_in -> h_out, c_out`: the state before the last of `y` was
fed, so that a later call continues with that as its `x`. `exporters.onnx_rollout` writes it as one graph;
`runtimes.stepping` computes the same with one call of the model for each step, and is the reference of that graph.

Text is sampled as follows: the candidates are the tokens whose logit is no less than the `top_k`-th largest (0: all),
their probabilities softmax(logit / temperature), and the token is the first whose cumulative probability, in the order
of the vocabulary, exceeds the noise, uniform in [0, 1). A temperature of 0 takes the most likely token. Rows that have
reached `stop` (-1: none) repeat it; when all have, the call returns early.
"""

import numpy as np
from msgspec.structs import replace

from lstm_deploy.contract.layouts import layout_of
from lstm_deploy.contract.signature import Feeds, Signature, TensorSpec
from lstm_deploy.contract.tasks import Classify, Forecast, LanguageModel
from lstm_deploy.errors import InputError

MIN_TEMPERATURE = float(np.float32(1e-6))
"""Lower temperatures count as 0: dividing by them overflows."""
NO_STOP = -1


def rollout_contract(signature: Signature) -> Signature:
    """The contract of a model's rollout; raises `InputError`, with the reason, for a model that has none."""
    layout, task = layout_of(signature), signature.task
    if isinstance(task, Classify):
        raise InputError("A classifier does not feed itself, so it has no rollout; run it on whole inputs.")
    if isinstance(task, Forecast) and task.horizon > 1:
        raise InputError(f"The model predicts {task.horizon} steps at once, and none after; train with a horizon of 1.")
    if isinstance(task, Forecast) and not task.feeds_itself:
        features, targets = ", ".join(task.features), ", ".join(task.targets)
        if set(task.features) == set(task.targets):
            raise InputError(
                f"The model predicts {targets} in another order than it takes {features}, so its outputs are no "
                "inputs; train with the targets in the order of the features."
            )
        raise InputError(
            f"The model predicts {targets} but needs {features} at each step, so it can look one step ahead only; "
            "train with every feature as a target."
        )
    if len(signature.inputs) > 1:
        raise InputError("This model also takes lengths, which a rollout does not have; export it without packing.")
    carried = carries_state(signature)
    if carried and (signature.streaming != "exact" or signature.least_seq > 1):
        reason = signature.streaming_reason or "a call takes a fixed number of steps, or some at least"
        raise InputError(f"This model cannot carry its state from step to step ({reason}), so it has no rollout.")
    (x,) = signature.inputs
    if isinstance(task, LanguageModel):
        inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=(0,), high=(layout.width - 1,)),
            TensorSpec(name="lengths", dtype="int64", shape=("batch",), is_lengths=True),
            TensorSpec(name="noise", dtype="float32", shape=("batch", "steps"), low=(0,), high=(1,)),
            TensorSpec(name="temperature", dtype="float32", shape=()),
            TensorSpec(name="top_k", dtype="int64", shape=()),
            TensorSpec(name="stop", dtype="int64", shape=()),
        )
        output = TensorSpec(name="y", dtype="int64", shape=("batch", "made"))
    else:
        inputs = (
            TensorSpec(name="x", dtype="float32", shape=("batch", "seq", layout.width), low=x.low, high=x.high),
            TensorSpec(name="steps", dtype="int64", shape=()),
        )
        output = TensorSpec(name="y", dtype="float32", shape=("batch", "made", layout.width))
    return replace(
        signature,
        inputs=inputs,
        outputs=(output,),
        recurrent=signature.recurrent if carried else (),
        states=signature.states if carried else (),
        streaming="none",
        streaming_reason="a rollout gives all its steps in one call",
        fixed=(),
        rollout=True,
        least_seq=1 if carried else window_of(signature),
    )


def no_rollout_reason(signature: Signature) -> str:
    """Why a model has no rollout; empty if it has one."""
    try:
        rollout_contract(signature)
    except InputError as reason:
        return str(reason)
    return ""


def carries_state(signature: Signature) -> bool:
    """Whether a rollout carries the state; otherwise each step starts from the initial state, on the latest window."""
    return isinstance(signature.task, LanguageModel) or signature.state_policy == "carry"


def window_of(signature: Signature) -> int:
    """Rows that one forecast sees if the state is not carried."""
    assert isinstance(signature.task, Forecast)
    return signature.task.window  # also if the model takes a fixed number of steps: `layout_of` checks they are equal


def check_rollout_inputs(contract: Signature, feeds: Feeds) -> None:
    """Raise `InputError` for inputs of a rollout that have the right shapes but invalid values."""
    x = feeds["x"]
    if x.shape[1] < contract.least_seq:
        raise InputError(f"x has {x.shape[1]} rows, and a forecast looks at {contract.least_seq}; give more of them.")
    if "steps" in feeds:
        if feeds["steps"] < 1:
            raise InputError(f"A rollout cannot have {feeds['steps']} steps; give 1 or more.")
        return
    lengths, noise = feeds["lengths"], feeds["noise"]
    if len(lengths) != len(x) or len(noise) != len(x):
        raise InputError(f"x has {len(x)} rows, lengths {len(lengths)} and noise {len(noise)}; make them equal.")
    if (lengths < 1).any() or (lengths > x.shape[1]).any():
        raise InputError(f"lengths holds {lengths.tolist()}, and x has {x.shape[1]} steps; give 1 to {x.shape[1]}.")
    if not ((noise >= 0) & (noise < 1)).all():
        raise InputError("noise holds numbers that are not from 0 to 1; draw them uniformly from [0, 1).")
    if not feeds["temperature"] >= 0 or not np.isfinite(feeds["temperature"]):
        raise InputError(f"temperature is {feeds['temperature']}; give a finite number, 0 or more.")
    if feeds["top_k"] < 0:
        raise InputError(f"top_k is {feeds['top_k']}; give 0 for all tokens, or 1 or more.")
    high = contract.inputs[0].high
    if feeds["stop"] < NO_STOP or (high is not None and feeds["stop"] > high[0]):
        raise InputError(f"stop is {feeds['stop']}, which is no token; give one, or {NO_STOP} for none.")
