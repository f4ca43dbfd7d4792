"""Helper losses for a policy trained from scratch, and a symbolic code that stands for perfect sight.

The text model learns to read and reason on the code while, in parallel, the vision tower learns to write it;
then both are plugged together. The losses ask linear readers of hidden states what each image cell holds and
where it is. All of this is thrown away after training.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anomalyr1.nano.packing import CELL, PackedBatch

Floats = NDArray[np.float32]

COVERED = 0.04
"""Share of a cell that a defect must cover for the cell to count as defective."""
BIN, BINS = 8, 64
"""Box edges are classified in bins of 8 pixels of the model's frame, up to 512."""
GRID = 16
"""Rows and columns that are told apart."""
LETTERS_READ = 8
"""Option letters that a reader tells apart."""
QUARTER_BALANCE = 4.0
"""How much more a defective quarter of a cell counts than a good one."""
SIGHT = 2.0
"""Cells within which a defective cell tells the edges of its box; further ones are "far", for its neighbours
to tell."""
TONE_MEAN, TONE_SPREAD = 0.45, 0.2
"""Mean and standard deviation of the colours of drawn parts, 0..1."""
CODE_SCALE = 0.8
"""Standard deviation of each word of the code: loud enough not to drown in the text model's residual stream
(at 0.1 it is not read)."""


@dataclass(frozen=True)
class ImageTruth:
    """What one image shows, cell by cell; h x w cells of 28 pixels."""

    category: int
    """Number of the category."""
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

    def without_defect(self) -> ImageTruth:
        """The same object good."""
        return replace(self, kind=0, cover=0 * self.cover, boxes_xyxy=self.boxes_xyxy[:0], look="")


@dataclass(frozen=True)
class CellTargets:
    """Targets for B equally sized images of n = h * w cells."""

    category: Tensor
    """(B,) number of the category."""
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


def cell_targets(truths: Sequence[ImageTruth]) -> CellTargets:
    """The targets of a batch of B equally sized images."""
    h, w = truths[0].grid_hw
    # 1. Cells that are defective, and what defect they show.
    cover = torch.from_numpy(np.stack([truth.cover for truth in truths]))
    quarters = cover.view(-1, h, 2, w, 2).permute(0, 1, 3, 2, 4).reshape(-1, h * w, 4)
    defective = quarters.mean(-1) > COVERED  # (B, n)
    category = torch.tensor([truth.category for truth in truths])
    whole_kind = torch.tensor([truth.kind for truth in truths])
    kind = whole_kind[:, None] * defective
    # 2. The box that each of them belongs to, and the way from its centre to the box's edges.
    rows, columns = np.divmod(np.arange(h * w), w)
    centres = np.stack([columns + 0.5, rows + 0.5], 1) * CELL  # (n, 2) x, y
    nearest = torch.from_numpy(np.stack([_nearest_box(truth.boxes_xyxy, centres) for truth in truths]))
    edges = nearest * defective[..., None]  # (B, n, 4)
    middle = torch.from_numpy(np.concatenate([centres, centres], 1)).float()
    outward = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    reach = (edges - middle) * outward / CELL * defective[..., None]
    # 3. The defect of the image as a whole, told by its first box.
    no_box = np.zeros(4, dtype=np.float32)
    leading_boxes = [truth.boxes_xyxy[0] if len(truth.boxes_xyxy) else no_box for truth in truths]
    whole_edges = torch.from_numpy(np.stack(leading_boxes))
    whole_place = torch.tensor([_region(truth) for truth in truths])
    place = torch.from_numpy(np.stack([rows, columns], 1))
    return CellTargets(category, kind, quarters, edges, reach, place, whole_kind, whole_place, whole_edges)


def _region(truth: ImageTruth) -> int:
    """Which of the 3 x 3 regions holds the first box's centre, row by row; 9 where there is no box."""
    if len(truth.boxes_xyxy) == 0:
        return 9
    h, w = truth.grid_hw
    x1, y1, x2, y2 = (float(n) / CELL for n in truth.boxes_xyxy[0])
    return 3 * min(2, int((y1 + y2) / 2 * 3 / h)) + min(2, int((x1 + x2) / 2 * 3 / w))


def _nearest_box(boxes_xyxy: Floats, centres: NDArray[np.float64]) -> Floats:
    """(n, 4) the box nearest to each cell's centre (0 = inside)."""
    if len(boxes_xyxy) == 0:
        return np.zeros((len(centres), 4), dtype=np.float32)
    low, high = boxes_xyxy[None, :, :2], boxes_xyxy[None, :, 2:]
    outside = np.maximum(low - centres[:, None], 0) + np.maximum(centres[:, None] - high, 0)
    nearest: Floats = boxes_xyxy[outside.sum(-1).argmin(1)]
    return nearest


class SightCode:
    """A fixed random code of what an image shows: what a perfect vision tower's image tokens could be.

    Every word has its vector.
    """

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

    def tokens(self, truths: Sequence[ImageTruth], targets: CellTargets) -> Tensor:
        """(B, n, width) the code of a batch, whose `cell_targets` are `targets`."""
        facts = [(*truth.facts, f"category {truth.category}") for truth in truths]
        objects = torch.stack([self._words(*texts).sum(0) for texts in facts])  # (B, width)
        defects = torch.stack([self.word(f"kind {t.kind}") + self.word(t.look) for t in truths])
        quarters, edges = (self._words(*(f"{name}{i}" for i in range(4))) for name in ("quarter", "edge"))
        shares = (3 * targets.quarters).clamp(0, 1).sqrt()
        most = shares.amax(-1, keepdim=True) * (targets.kind > 0)[..., None]
        reach = (targets.reach / SIGHT).clamp(-0.5, 1)
        return CODE_SCALE * (
            0.35 * objects[:, None]
            + 0.7 * most * defects[:, None]
            + 0.7 * shares @ quarters
            + 0.7 * reach @ edges
        )

    def _words(self, *texts: str) -> Tensor:
        """(N, width) the words of N texts."""
        return torch.stack([self.word(text) for text in texts])


class SightLosses(nn.Module):
    """Helper losses on image tokens.

    They ask for the kind of defect, which quarters of a cell it covers, the way to its box's edges, and the
    category. Nothing that only the whole image tells: the tower sees squares of it.
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

    def patches(self, states: Tensor, targets: CellTargets) -> Tensor:
        """Loss on which quarters of a cell are defective, told by its patches before they are merged.

        `states` is (B, n, m * m, width).
        """
        b, n, unit, _ = states.shape
        half = math.isqrt(unit) // 2
        logits = self.patch(functional.rms_norm(states, (states.shape[-1],))).float()
        return _quarter_loss(logits.view(b, n, 2, half, 2, half).mean((3, 5)).view(b, n, 4), targets)

    def tones(self, tokens: Tensor, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Loss on the mean colours of each quarter of a cell, which comparing with a reference needs.

        `tokens` is (B, n, width).
        """
        x = torch.from_numpy(np.stack(images)).float() / 255
        b, h, w, half = *x.shape[:3], CELL // 2
        x = x.view(b, h // half, half, w // half, half, 3).mean((2, 4)).view(b, h // CELL, 2, w // CELL, 2, 3)
        goal = (x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, 12) - TONE_MEAN) / TONE_SPREAD
        return functional.smooth_l1_loss(
            self.tone(tokens.to(self.tone.weight.dtype) / CODE_SCALE).float(), goal
        )

    def forward(self, tokens: Tensor, targets: CellTargets) -> dict[str, Tensor]:
        """Losses by name; `tokens` is (B, n, width)."""
        # of about unit size, so that the readers learn at the common rate
        x = tokens.to(self.kind.weight.dtype) / CODE_SCALE
        losses = {
            "kind": _kind_loss(self.kind(x), targets, self.balance),
            "category": functional.cross_entropy(self.category(x.mean(1)).float(), targets.category),
            "quarter": _quarter_loss(self.quarter(x).float(), targets),
        }
        defective = targets.kind > 0
        if bool(defective.any()):
            way = targets.reach[defective].clamp(-SIGHT / 2, SIGHT)
            losses["reach"] = functional.smooth_l1_loss(self.reach(x[defective]).float(), way, beta=0.25)
        return losses


class PlaceLosses(nn.Module):
    """Helper losses on image tokens within the text model.

    Early they ask for a token's own row and column, later for the kind of defect and the edges of its box. In
    between, images are compared, so that the latter are what the reference makes of what the tower tells.
    """

    def __init__(self, width: int, kinds: int) -> None:
        """Fresh linear readers."""
        super().__init__()
        self.place = nn.Linear(width, 2 * GRID)
        self.kind = nn.Linear(width, kinds + 1)
        self.edges = nn.Linear(width, 4 * BINS)
        self.balance = nn.Buffer(torch.tensor([1.0] + [4.0] * kinds), persistent=False)

    def forward(self, early: Tensor, late: Tensor, targets: CellTargets) -> dict[str, Tensor]:
        """Losses by name; `early` and `late` states are (B, n, width)."""
        place = targets.place.clamp(max=GRID - 1).expand(len(early), -1, -1).flatten()
        logits = self.place(functional.rms_norm(early, (early.shape[-1],))).float().view(-1, GRID)
        x = functional.rms_norm(late, (late.shape[-1],))
        losses = {
            "place": functional.cross_entropy(logits, place),
            "cell kind": _kind_loss(self.kind(x), targets, self.balance),
        }
        defective = targets.kind > 0
        if bool(defective.any()):
            losses["edges"] = _edge_loss(self.edges(x[defective]), targets.edges[defective])
        return losses


class LetterLoss(nn.Module):
    """Helper loss on the tokens of options within the text model: the letter that they stand behind.

    With it, looking the letter up is one step less.
    """

    def __init__(self, width: int) -> None:
        """A fresh linear reader."""
        super().__init__()
        self.letter = nn.Linear(width, LETTERS_READ)

    def forward(self, states: Tensor, numbers: Tensor) -> Tensor:
        """The loss; `states` is (B, S, width), `numbers` (B, S) the number of the letter, -1 = no option."""
        x = functional.rms_norm(states[numbers >= 0], (states.shape[-1],))
        return functional.cross_entropy(self.letter(x).float(), numbers[numbers >= 0])


class SummaryLosses(nn.Module):
    """Helper losses on the token that closes the image: kind, region and box of the defect.

    What is asked later finds them in one place.
    """

    def __init__(self, width: int, kinds: int) -> None:
        """Fresh linear readers."""
        super().__init__()
        self.kind = nn.Linear(width, kinds + 1)
        self.place = nn.Linear(width, 10)
        self.edges = nn.Linear(width, 4 * BINS)

    def forward(self, states: Tensor, targets: CellTargets) -> dict[str, Tensor]:
        """Losses by name; `states` is (B, width)."""
        x = functional.rms_norm(states, (states.shape[-1],))
        losses = {
            "sum kind": functional.cross_entropy(self.kind(x).float(), targets.whole_kind),
            "sum place": functional.cross_entropy(self.place(x).float(), targets.whole_place),
        }
        defective = targets.whole_kind > 0
        if bool(defective.any()):
            losses["sum edges"] = _edge_loss(self.edges(x[defective]), targets.whole_edges[defective])
        return losses


def looking_loss(attention: Tensor, batch: PackedBatch, targets: CellTargets) -> dict[str, Tensor]:
    """Loss on where the token that closes the image looks: its lowest head should find the defective cells.

    `attention` is (B, heads, S, S); nothing where all images are good.
    """
    rows, columns = (at.view(len(batch.ids), -1) for at in batch.last_image_at)
    defective = targets.whole_kind > 0
    if not bool(defective.any()):
        return {}
    share = attention[rows, 0, columns[:, -1:] + 1, columns].float()  # (B, n)
    on_defect = (share * (targets.kind > 0)).sum(1)
    return {"look": -torch.log(on_defect[defective] + 1e-4).mean()}


def comparing_loss(attention: Tensor, batch: PackedBatch, targets: CellTargets) -> dict[str, Tensor]:
    """Loss on where the inspected image's tokens look: at the same place of the reference or beside it.

    `attention` is (B, heads, S, S), of which the lowest head compares; nothing without one reference a row.
    """
    rows, columns = (at.view(len(batch.ids), -1) for at in batch.image_at)
    n = len(targets.place)
    if columns.shape[1] != 2 * n:
        return {}
    share = attention[rows[:, :1, None], 0, columns[:, n:, None], columns[:, None, :n]].float()  # (B, n, n)
    near = (targets.place[:, None] - targets.place).abs().amax(-1) <= 1
    return {"compare": -torch.log((share * near).sum(-1) + 1e-4).mean()}


def _kind_loss(logits: Tensor, targets: CellTargets, balance: Tensor) -> Tensor:
    """Loss on each cell's kind of defect; `logits` is (B, n, kinds + 1), `balance` the kinds' weights."""
    logits = logits.float().flatten(0, 1)
    return functional.cross_entropy(logits, targets.kind.flatten(), weight=balance.float())


def _quarter_loss(logits: Tensor, targets: CellTargets) -> Tensor:
    """Loss on which quarters of each cell are defective; `logits` is (B, n, 4)."""
    covered = (3 * targets.quarters).clamp(0, 1)
    return functional.binary_cross_entropy_with_logits(
        logits, covered, pos_weight=torch.tensor(QUARTER_BALANCE)
    )


def _edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Loss on the bins of box edges; `logits` is (N, 4 * bins), `edges` (N, 4) in pixels."""
    bins = (edges / BIN).long().clamp(0, BINS - 1)
    return functional.cross_entropy(logits.float().view(-1, BINS), bins.flatten())
