"""Rollouts as C: a model fed with its own outputs, in a loop around `step` or `sequence`."""

from lstm_deploy.contract import COLDEST, STEPS, Interface, LanguageModel, carries, layout_of, window_of
from lstm_deploy.exporters.c.sizes import Size
from lstm_deploy.exporters.c.templating import render


def rollout_source(interface: Interface, workspace: Size) -> tuple[str, int]:
    """The function that rolls a model out, and the bytes that it needs on the stack.

    `workspace` is the bytes that `sequence` needs.
    """
    signature, mode = interface.signature, interface.mode
    layout = layout_of(signature)
    is_text = isinstance(signature.task, LanguageModel)
    window = 1 if is_text else window_of(signature)
    steps_of_call = 1 if mode.one_step else window
    unused_outputs = [
        (f"spare{number}", output.c_type, output.size * (steps_of_call if output.has_time else 1))
        for number, output in enumerate(interface.outputs[1:])
    ]
    stack = sum(8 * size for _, _, size in unused_outputs)
    rows_out = window if layout.y_time_axis is not None else 1
    if is_text:
        kind = "generate"
        stack += 8 * layout.width
    elif carries(signature):
        kind = "forecast step"
    else:
        kind = "forecast window"
        stack += 4 * window * layout.width
        if not mode.one_step:
            stack += workspace.at(window) + 4 * rows_out * layout.width
    source = render(
        "rollout.c",
        kind=kind,
        prototype=interface.rollout_prototype()[1],
        name=interface.name,
        weights_argument=interface.weights_argument,
        width=layout.width,
        window=window,
        one_hot=layout.one_hot,
        token_type=interface.inputs[0].c_type,
        coldest=f"{COLDEST:.9g}",
        unused_outputs=unused_outputs,
        by_steps=mode.one_step,
        takes_steps=mode.dynamic,
        last_row=(rows_out - 1) * layout.width,
        workspace=interface.workspace_macro.replace(STEPS, str(window)),
    )
    return source, stack
