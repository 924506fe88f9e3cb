"""Which of several processes this is. No PyTorch."""

import os


def is_first_process() -> bool:
    """Whether this is not one of the further processes that Lightning or a cluster has started."""
    names = ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID")
    return not any(os.environ.get(name, "0").strip("0") for name in names)
