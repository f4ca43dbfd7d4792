"""A run in one of several processes: `python processes.py FOLDER SAMPLES SETTINGS`, in the environment of a
launcher.

Three GRPO steps, or with a `recipe` in SETTINGS all of `anomalyr1.training.run.train`. The rollouts are made
up of the prompt and the place in the group, so that it does not matter which process they fall to.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import torch

from anomalyr1.shared_prefix import rollouts
from anomalyr1.types import Sample

LONG = 40
"""Tokens of a long completion."""


def made_up(base, groups, generation, first=0):
    """(N, L) completions, the same for a prompt wherever it is answered; what is sampled beside them is
    thrown away.

    One completion of each third prompt is long, so that processes differ in which form of the shared prefix
    costs less. `first` is the place in its group of this process's first completion.
    """
    rollouts.roll_out(base, groups, generation)
    rows, seen = [], dict.fromkeys(range(len(groups.prompts)), first)
    for group in groups.group_of.tolist():
        seen[group] += 1
        told = int(groups.prompts[group].sum())
        length = LONG if seen[group] == 1 and told % 3 == 0 and generation.max_new_tokens > LONG else 6
        own = torch.randint(
            0, 250, (length,), generator=torch.Generator().manual_seed(told * 100 + seen[group])
        )
        rows.append(torch.cat([own, torch.tensor(generation.eos_token_id[:1])]))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=generation.pad_token_id)


def whole(tensor):
    """A tensor that may lie in shards."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_on_cpu() -> None:
    """accelerate shards on accelerators alone; let it take these processes for some. What it then does with
    the model is its own.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    inner = PartialState.__init__

    def init(self, *args, **kwargs):
        inner(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


def trained(folder: Path, recipe: dict, first: int) -> None:
    """A whole run, or what is left of one; where groups lie in several processes, each process has `first`
    completions of one.
    """
    from anomalyr1.training import grpo
    from anomalyr1.training.recipes import Recipe
    from anomalyr1.training.run import train
    from anomalyr1.training.run_folder import RECIPE

    grpo.roll_out = functools.partial(made_up, first=first * int(os.environ.get("RANK", "0")))
    train(Recipe(**recipe), folder / "run", resume=(folder / "run" / RECIPE).exists())


def main(folder: Path, samples: Path, settings: dict) -> None:
    """Write gradients of the first step and the stepped weights, by name, and what was logged; all from the
    main process.
    """
    from accelerate.utils import gather_object
    from transformers import TrainerCallback

    from anomalyr1.policy.load import load_policy
    from anomalyr1.training import grpo, held_out
    from anomalyr1.training.processes import is_main_process
    from anomalyr1.training.run_log import RunLog
    from support import grpo_runs, runs, tiny

    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    if "recipe" in settings:
        trained(folder, **settings)
        return
    tiny.folder_of("qwen2_5_vl")  # transformers saves in the main process alone, once there are others
    grpo.roll_out = made_up
    gradients = {}

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **_):
            if state.global_step == 0:
                parameters = made.accelerator.unwrap_model(made.model).named_parameters()
                gradients.update(
                    {name: whole(one.grad).clone() for name, one in parameters if one.grad is not None}
                )

    made = grpo_runs.trainer(
        grpo.SharedPrefixGRPOTrainer, folder, optim="sgd", weight_decay=0.0, max_grad_norm=0.0, learning_rate=0.1, max_steps=3,
        gradient_accumulation_steps=1, beta=0.04, eval_steps=3, **settings,
    )  # fmt: skip
    made.add_callback(Look())
    log = RunLog(folder)
    log.attach(made)
    known = [Sample.from_json(line) for line in samples.read_text().splitlines()]
    held_out.DRAWS = 20
    held_out.attach(made, held_out.HeldOut(known, load_policy(str(tiny.folder_of("qwen2_5_vl")))), log, 6)
    made.train()
    weights = {
        name: whole(one.detach())
        for name, one in made.accelerator.unwrap_model(made.model).named_parameters()
    }
    runs.add_group(log, 4)  # every process calls, one writes
    sharded = any(hasattr(one, "full_tensor") for one in made.model.parameters())
    forms = gather_object([dict(made.forms)])
    if is_main_process():
        torch.save(
            {"gradients": gradients, "weights": weights, "forms": forms, "sharded": sharded},
            folder / "found.pt",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
