"""A trainer of transformers' whose checkpoints are sealed (see `checkpoints`) and load into any Qwen-VL
model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import Trainer

from anomalyr1.training import checkpoints


class SealedTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """The two hooks of transformers' `Trainer` that load and save checkpoints; both of our trainers have
    them.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of a checkpoint; adapters and sharded weights are left to transformers' own way.

        transformers saves a Qwen-VL under other names than its modules have, and its trainer loads by name,
        leaving out silently what it does not find: a resumed run would begin with the old weights and the new
        optimizer. `from_pretrained` knows the names.
        """
        if is_peft_model(self.model) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(self.model).from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype, local_files_only=True, use_safetensors=True
        )
        self.model.load_state_dict(saved.state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as transformers does, seal, and only then delete what `save_total_limit` leaves over."""
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            checkpoints.clear(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.seal(folder)
            if limit:
                checkpoints.trim(run, limit)
