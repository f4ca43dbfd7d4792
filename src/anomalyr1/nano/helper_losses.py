"""Helper losses for a policy trained from scratch, and a symbolic code that stands for perfect sight.

The text model learns to read and reason on the code while, in parallel, the vision tower learns to write it;
then both are plugged together. The losses ask what each image cell holds and where it is. All of this is
thrown away after training.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anomalyr1.nano.packing import CELL

Floats = NDArray[np.float32]

COVERED = 0.04
"""Share of a cell that a defect must cover for the cell to count as defective."""
BIN, BINS = 8, 64
"""Box edges are classified in bins of 8 pixels of the model's frame, up to 512."""
GRID = 16
"""Rows and columns that are told apart."""
LETTERS_TOLD = 8
QUARTER_BALANCE = 4.0
"""How much more a defective quarter of a cell counts than a good one."""
SIGHT = 2.0
"""Cells within which a defective cell tells the edges of its box; further ones are "far", for its neighbours
to tell."""
TONE_MEAN, TONE_SPREAD = 0.45, 0.2
"""Of the colours of drawn parts, 0..1."""
CODE_SCALE = 0.8
"""Standard deviation of each word of the code: loud enough not to drown in the text model's residual stream
(at 0.1 it is not read)."""


@dataclass(frozen=True)
class Truth:
    """What one image shows, cell by cell; h x w cells of 28 pixels."""

    category: int
    kind: int
    """0 = good, else 1 + number of the defect's name."""
    cover: Floats
    """(2h, 2w) share of each 14-pixel square that is defective, 0..1."""
    boxes_xyxy: Floats
    """(N, 4) in pixels of the model's frame."""
    look: str = ""
    """How the defect looks."""
    facts: tuple[str, ...] = ()
    """What can be seen of the object as a whole."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.cover.shape[0] // 2, self.cover.shape[1] // 2


@dataclass(frozen=True)
class Cells:
    """Targets for B equally sized images of n = h * w cells."""

    category: Tensor
    """(B,)"""
    kind: Tensor
    """(B, n) 0 = good, else 1 + number of the defect's name."""
    quarters: Tensor
    """(B, n, 4) how much of each quarter of a cell is defective, 0..1."""
    edges: Tensor
    """(B, n, 4) x1, y1, x2, y2 of the box a defective cell belongs to, in pixels; 0 elsewhere."""
    reach: Tensor
    """(B, n, 4) signed way in cells from the cell's centre out to those edges; 0 elsewhere."""
    place: Tensor
    """(n, 2) row and column."""
    whole_kind: Tensor
    """(B,) 0 = good, else 1 + number of the defect's name."""
    whole_place: Tensor
    """(B,) which of the 3 x 3 regions holds the first box's centre, 9 = good."""
    whole_edges: Tensor
    """(B, 4) the first box in pixels; 0 = good."""


def cells(truths: Sequence[Truth]) -> Cells:
    """The targets of a batch of equally sized images."""
    h, w = truths[0].grid_hw
    cover = torch.from_numpy(np.stack([truth.cover for truth in truths]))
    quarters = cover.view(-1, h, 2, w, 2).permute(0, 1, 3, 2, 4).reshape(-1, h * w, 4)
    defective = quarters.mean(-1) > COVERED
    kind = torch.tensor([truth.kind for truth in truths])[:, None] * defective
    rows, columns = np.divmod(np.arange(h * w), w)
    centres = np.stack([columns + 0.5, rows + 0.5], 1) * CELL
    edges = (
        torch.from_numpy(np.stack([_edges(truth.boxes_xyxy, centres) for truth in truths]))
        * defective[..., None]
    )
    middle = torch.from_numpy(np.concatenate([centres, centres], 1)).float()
    outward = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    reach = (edges - middle) * outward / CELL * defective[..., None]
    return Cells(
        torch.tensor([truth.category for truth in truths]), kind, quarters, edges, reach,
        torch.from_numpy(np.stack([rows, columns], 1)), torch.tensor([truth.kind for truth in truths]),
        torch.tensor([_region(truth) for truth in truths]),
        torch.from_numpy(np.stack([[*truth.boxes_xyxy, np.zeros(4, dtype=np.float32)][0] for truth in truths])),
    )  # fmt: skip


def _region(truth: Truth) -> int:
    if len(truth.boxes_xyxy) == 0:
        return 9
    h, w = truth.grid_hw
    x1, y1, x2, y2 = (float(n) / CELL for n in truth.boxes_xyxy[0])
    return 3 * min(2, int((y1 + y2) / 2 * 3 / h)) + min(2, int((x1 + x2) / 2 * 3 / w))


def _edges(boxes_xyxy: Floats, centres: NDArray[np.float64]) -> Floats:
    """(n, 4) the box nearest to each cell's centre (0 = inside)."""
    if len(boxes_xyxy) == 0:
        return np.zeros((len(centres), 4), dtype=np.float32)
    low, high = boxes_xyxy[None, :, :2], boxes_xyxy[None, :, 2:]
    outside = np.maximum(low - centres[:, None], 0) + np.maximum(centres[:, None] - high, 0)
    nearest: Floats = boxes_xyxy[outside.sum(-1).argmin(1)]
    return nearest


class Code:
    """A fixed random code of what an image shows: what the image tokens of a perfect vision tower could be. Every word has its vector."""

    def __init__(self, width: int) -> None:
        """Nothing is learned; `width` is that of the text model."""
        self.width = width
        self._vectors: dict[str, Tensor] = {}

    def word(self, text: str) -> Tensor:
        """(width,) the same for the same text."""
        if text not in self._vectors:
            self._vectors[text] = torch.randn(
                self.width, generator=torch.Generator().manual_seed(zlib.crc32(text.encode()))
            )
        return self._vectors[text]

    def tokens(self, truths: Sequence[Truth], cells: Cells) -> Tensor:
        """(B, n, width) the code of a batch."""
        told = [(*t.facts, f"category {t.category}") for t in truths]
        whole = torch.stack([torch.stack([self.word(text) for text in texts]).sum(0) for texts in told])
        local = torch.stack([self.word(f"kind {t.kind}") + self.word(t.look) for t in truths])
        quarters, edges = (
            torch.stack([self.word(f"{name}{i}") for i in range(4)]) for name in ("quarter", "edge")
        )
        shares = (3 * cells.quarters).clamp(0, 1).sqrt()
        most = shares.amax(-1, keepdim=True) * (cells.kind > 0)[..., None]
        reach = (cells.reach / SIGHT).clamp(-0.5, 1)
        return CODE_SCALE * (
            0.35 * whole[:, None]
            + 0.7 * most * local[:, None]
            + 0.7 * shares @ quarters
            + 0.7 * reach @ edges
        )


class SightHints(nn.Module):
    """Helper losses on image tokens: kind of defect, which quarters of a cell it covers, way to its box's edges, and category.

    Nothing that only the whole image tells: the tower sees squares of it.
    """

    def __init__(self, width: int, sight_width: int, categories: int, kinds: int) -> None:
        """Fresh linear readers; `width` is that of image tokens, `sight_width` that of patches."""
        super().__init__()
        self.kind = nn.Linear(width, kinds + 1)
        self.reach = nn.Linear(width, 4)
        self.category = nn.Linear(width, categories)
        self.quarter = nn.Linear(width, 4)
        self.tone = nn.Linear(width, 12)
        self.patch = nn.Linear(sight_width, 1)
        self.balance = nn.Buffer(torch.tensor([1.0] + [4.0] * kinds), persistent=False)

    def patches(self, states: Tensor, cells: Cells) -> Tensor:
        """Loss on which quarters of a cell are defective, told by its patches before they are merged; `states` is (B, n, m * m, width)."""
        b, n, unit, _ = states.shape
        half = math.isqrt(unit) // 2
        told = (
            self.patch(functional.rms_norm(states, (states.shape[-1],)))
            .float()
            .view(b, n, 2, half, 2, half)
            .mean((3, 5))
            .view(b, n, 4)
        )
        return functional.binary_cross_entropy_with_logits(
            told, (3 * cells.quarters).clamp(0, 1), pos_weight=torch.tensor(QUARTER_BALANCE)
        )

    def tones(self, tokens: Tensor, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Loss on the mean colours of each quarter of a cell, which comparing with a reference needs; `tokens` is (B, n, width)."""
        x = torch.from_numpy(np.stack(images)).float() / 255
        b, h, w, half = *x.shape[:3], CELL // 2
        x = x.view(b, h // half, half, w // half, half, 3).mean((2, 4)).view(b, h // CELL, 2, w // CELL, 2, 3)
        goal = (x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, 12) - TONE_MEAN) / TONE_SPREAD
        return functional.smooth_l1_loss(
            self.tone(tokens.to(self.tone.weight.dtype) / CODE_SCALE).float(), goal
        )

    def forward(self, tokens: Tensor, cells: Cells) -> dict[str, Tensor]:
        """Losses by name; `tokens` is (B, n, width)."""
        x = (
            tokens.to(self.kind.weight.dtype) / CODE_SCALE
        )  # of about unit size, so that the readers learn at the common rate
        kind = functional.cross_entropy(
            self.kind(x).float().flatten(0, 1), cells.kind.flatten(), weight=self.balance.float()
        )
        category = functional.cross_entropy(self.category(x.mean(1)).float(), cells.category)
        quarter = functional.binary_cross_entropy_with_logits(
            self.quarter(x).float(),
            (3 * cells.quarters).clamp(0, 1),
            pos_weight=torch.tensor(QUARTER_BALANCE),
        )
        found = {"kind": kind, "category": category, "quarter": quarter}
        defective = cells.kind > 0
        if bool(defective.any()):
            way = cells.reach[defective].clamp(-SIGHT / 2, SIGHT)
            found["reach"] = functional.smooth_l1_loss(self.reach(x[defective]).float(), way, beta=0.25)
        return found


class PlaceHints(nn.Module):
    """Helper losses on image tokens inside the text model: own row and column early; kind of defect and edges of its box later.

    In between, images are compared, so the latter are what the reference makes of what the tower tells.
    """

    def __init__(self, width: int, kinds: int) -> None:
        """Fresh linear readers."""
        super().__init__()
        self.place = nn.Linear(width, 2 * GRID)
        self.kind = nn.Linear(width, kinds + 1)
        self.edges = nn.Linear(width, 4 * BINS)
        self.balance = nn.Buffer(torch.tensor([1.0] + [4.0] * kinds), persistent=False)

    def forward(self, early: Tensor, late: Tensor, cells: Cells) -> dict[str, Tensor]:
        """Losses by name; both states are (B, n, width)."""
        place = cells.place.clamp(max=GRID - 1).expand(len(early), -1, -1).flatten()
        x, kinds = functional.rms_norm(late, (late.shape[-1],)), cells.kind.flatten()
        told = self.place(functional.rms_norm(early, (early.shape[-1],)))
        found = {
            "place": functional.cross_entropy(told.float().view(-1, GRID), place),
            "cell kind": functional.cross_entropy(
                self.kind(x).float().flatten(0, 1), kinds, weight=self.balance.float()
            ),
        }
        defective = cells.kind > 0
        if bool(defective.any()):
            bins = (cells.edges[defective] / BIN).long().clamp(0, BINS - 1)
            found["edges"] = functional.cross_entropy(
                self.edges(x[defective]).float().view(-1, BINS), bins.flatten()
            )
        return found


class LetterHints(nn.Module):
    """Helper loss on the tokens of options inside the text model: the letter they stand behind, so that looking it up is one step less."""

    def __init__(self, width: int) -> None:
        """A fresh linear reader."""
        super().__init__()
        self.letter = nn.Linear(width, LETTERS_TOLD)

    def forward(self, states: Tensor, numbers: Tensor) -> Tensor:
        """The loss; `states` is (B, S, width), `numbers` (B, S) the number of the letter, -1 = no option."""
        x = functional.rms_norm(states[numbers >= 0], (states.shape[-1],))
        return functional.cross_entropy(self.letter(x).float(), numbers[numbers >= 0])


class SummaryHints(nn.Module):
    """Helper losses on the token that closes the image: kind, region and box of the defect. What is asked later finds it in one place."""

    def __init__(self, width: int, kinds: int) -> None:
        """Fresh linear readers."""
        super().__init__()
        self.kind = nn.Linear(width, kinds + 1)
        self.place = nn.Linear(width, 10)
        self.edges = nn.Linear(width, 4 * BINS)

    def forward(self, states: Tensor, cells: Cells) -> dict[str, Tensor]:
        """Losses by name; `states` is (B, width)."""
        x = functional.rms_norm(states, (states.shape[-1],))
        found = {
            "sum kind": functional.cross_entropy(self.kind(x).float(), cells.whole_kind),
            "sum place": functional.cross_entropy(self.place(x).float(), cells.whole_place),
        }
        bad = cells.whole_kind > 0
        if bool(bad.any()):
            bins = (cells.whole_edges[bad] / BIN).long().clamp(0, BINS - 1)
            found["sum edges"] = functional.cross_entropy(
                self.edges(x[bad]).float().view(-1, BINS), bins.flatten()
            )
        return found
