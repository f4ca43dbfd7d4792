"""The values of a run that makes nano, and the notes that it keeps in its folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from anomalyr1.files import write_whole
from anomalyr1.nano.loop import Clock, StagePlan
from anomalyr1.nano.model import NanoShape
from anomalyr1.types import Record

log = logging.getLogger(__name__)

STAGES = ("text", "sight", "both")
FIGURES = "figures.json"
"""What a finished run leaves: the figures of its policy."""
STRETCHED = ("minutes", "steps", "save_minutes", "exam_minutes", "log_every")
"""Values of a plan that may change on resume."""


class NanoRecipe(Record):
    """All values of a run."""

    shape: NanoShape = NanoShape()
    images: int = 13_824
    """Size of the pool; its images are drawn once, from before training on."""
    first_images: int = 2_000
    """Training starts when so many are drawn."""
    shard: int = 256
    """Pairs of images in a shard of the pool."""
    text: StagePlan = StagePlan(learning_rate=1.2e-3, minutes=33, floor=0.1)
    sight: StagePlan = StagePlan(learning_rate=2.5e-3, minutes=35)
    both: StagePlan = StagePlan(learning_rate=1e-3, minutes=56, exam_minutes=13, average=0.998)
    raw: StagePlan = StagePlan(learning_rate=5e-4, minutes=5)
    """The text model of `nano-raw`, from the finished policy."""
    cells: int = 640
    """Image cells in a batch, which sets its number of images (6 to 24)."""
    sight_cells: int = 400
    """Image cells in a batch of squares."""
    drill_share: float = 0.45
    """Share of the text stage's steps that are letter drills."""
    late_drill_share: float = 0.04
    """Share of the last stage's steps that are letter drills."""
    recital_share: float = 0.6
    """Share of the drills about what knowledge says of an invented object."""
    drills: int = 24
    """Questions in a step of letter drills."""
    questions: int = 3
    """Questions behind one image."""
    reference_share: float = 0.5
    """Share of the prompts about images that have a reference; of those about boxes on the code about a third
    of it have one."""
    good_with_reference: float = 0.4
    """Share of good parts among those with a reference (half of the parts without one are good): with as many
    good ones, a policy that compares let most defects of parts it did not know pass."""
    knowledge_share: float = 0.5
    """Share of the objects of a category that have knowledge."""
    nameless_knowledge_share: float = 0.75
    """Share of the objects that look like no category that have knowledge."""
    invented_share: float = 0.5
    """Share of the objects with knowledge that have an invented name."""
    grounds: int = 400
    """Textures that defects are moved to."""
    strange_share: float = 0.45
    """Share of the sight stage's lessons that look like no category: what a defect is should not hang on
    them."""
    decoy_share: float = 0.3
    """Share of the examples with reference that bear the same mark on both, which is no defect then."""
    aligned_share: float = 0.3
    """Share of the lessons with reference whose reference is the same part in the same pose."""
    late_sight_share: float = 0.18
    """Share of the last stage's steps that are lessons of squares."""
    late_code_share: float = 0.15
    """Share of the last stage's lessons that ask for boxes on the code: arithmetic on places is learned
    soonest where they are exact."""
    late_strange_share: float = 0.12
    """Share of the last stage's lessons about whole images that look like no category."""
    tower_share: float = 0.6
    """Share of the last stage's lessons that the vision tower learns from, too; all else is quicker."""
    code_noise: float = 0.03
    """Standard deviation of the noise on the code that the text model reads."""
    exam_images: tuple[int, int] = (60, 120)
    """Held-out images of seen and of development categories in the examinations on the way."""
    exam_extras: int = 1
    """Questions about each of them besides verdict and boxes."""
    final_images: tuple[int, int] = (480, 480)
    """Held-out images of seen and of development categories in the final examination, whose figures go into
    the card."""
    final_extras: int | None = None
    """Questions about each of them besides verdict and boxes; None = all."""
    raw_images: int = 144
    """Held-out images for the examination of `nano-raw`."""
    machine: str = "2 CPU cores"
    """What the card says of the machine."""
    seed: int = 0

    @property
    def minutes(self) -> float:
        """Working time of all stages together; text and sight run side by side."""
        return max(self.text.minutes, self.sight.minutes) + self.both.minutes

    def scaled(self, minutes: float) -> NanoRecipe:
        """The same recipe with its working time stretched to about `minutes`."""
        factor = minutes / self.minutes
        plans: dict[str, StagePlan] = {name: getattr(self, name) for name in STAGES}
        for name, plan in plans.items():
            plans[name] = plan.model_copy(update={"minutes": plan.minutes * factor})
        return self.model_copy(update=plans)


def working_minutes(run: Path, stage: str) -> float:
    """Working time of a stage, from the log of the run's losses."""
    lines = [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return max((float(line["minutes"]) for line in lines if line["stage"] == stage), default=0.0)


def read_curve(run: Path) -> list[dict[str, Any]]:
    """The points of the curve of a run, one an examination; none before there was one."""
    path = run / "curve.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def add_to_curve(run: Path, clock: Clock, figures: dict[str, Any]) -> None:
    """Append a point to the curve of a run, in place of the one that it had for the same step and split."""
    point = {**clock.stamp(), **figures}
    place = clock.step, figures.get("split")
    earlier = [p for p in read_curve(run) if (p.get("step"), p.get("split")) != place]
    text = "".join(f"{json.dumps(p)}\n" for p in (*earlier, point))
    write_whole(run / "curve.jsonl", text.encode("utf-8"))
    log.info("%s", json.dumps(point))
