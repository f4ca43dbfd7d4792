"""The records that flow through the system: frozen, validated, JSON in and out.

Every stage takes and gives these: a `Sample` with its `Question`s goes in, a `Reply` holds a completion and
its reading, an `Answer`, and an `Inspection` is what becomes of them. Paths, not pixels: a record opens no
image.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from anomalyr1.errors import InputError as InputError
from anomalyr1.errors import SetupError as SetupError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Option letters by position."""

PLACES = (
    "top left", "top center", "top right",
    "center left", "center", "center right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
"""The 3 x 3 regions of an image, row by row."""

Kind = Literal[
    "anomaly detection",
    "defect classification",
    "defect localization",
    "defect description",
    "defect analysis",
    "object classification",
    "object analysis",
    "object structure",
    "object details",
    "grounding",
]
"""The subtasks of MMAD under their names in its files (its scorer folds structure and details into object
analysis), and grounding."""

_LONGEST_INTEGER = 19
"""Digits; a longer integer fits into no column, index or float that it could be meant for."""

Status = Literal["strict", "lenient", "unparseable"]
Verdict = Literal["good", "defect", "unsure"]
Probability = Annotated[float, Field(ge=0, le=1 + 1e-6)]
"""0..1; what a float32 rounds above 1 is let through."""
Ratio = Annotated[float, Field(ge=0, le=1e6)]
MaskSource = Literal["sam2", "posterior", "box", "map"]
PictureSide = Annotated[int, Field(ge=1, le=65_535)]
"""Width or height of a picture, in pixels."""
Coordinate = Annotated[float, Field(ge=-1e9, le=1e9)]
"""Of a corner, in pixels; far beyond any image, and its square is finite."""
MOST_PIXELS = 178_956_970
"""The largest picture that is ever opened (`images.Limits.max_pixels`)."""


def integer_of(digits: str) -> int:
    """A whole number in JSON. Raises `ValueError` for one of more than 19 digits."""
    if len(digits.removeprefix("-")) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


class Record(BaseModel):
    """A frozen record; unknown fields and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """One line of JSON.

        Lone surrogates (in file names that are not UTF-8) are kept as escapes; a high one right before a low
        one is read back as the character that the pair encodes.
        """
        return json.dumps(self.model_dump(mode="python"), default=str, ensure_ascii=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record that `to_json` wrote.

        Raises `pydantic.ValidationError` for anything else, and `ValueError` or `RecursionError` for what is
        no JSON.
        """
        return cls.model_validate(json.loads(line, parse_int=integer_of))


class Box(Record):
    """A rectangle in pixels of the original image: floats, half-open, the origin at the top left."""

    x1: Coordinate
    y1: Coordinate
    x2: Coordinate
    y2: Coordinate
    label: str = ""
    """What the box shows, e.g. the defect's name; empty when not said."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (self.x1 < self.x2 and self.y1 < self.y2):
            raise ValueError(f"a box needs x1 < x2 and y1 < y2, got {self.xyxy}")
        return self

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The four coordinates."""
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def area(self) -> float:
        """The area of the box in square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


class ModelBox(Record):
    """A box as the model wrote it, in the model's own units; only `images.Frame` can map it."""

    xyxy: tuple[float, float, float, float]
    """Left, top, right and bottom, in the order that the model wrote; not checked."""
    label: str = ""
    """What the box shows, in the model's words; empty when not said."""


class Mask(Record):
    """A binary mask in COCO's run-length encoding, at the size of the original image."""

    size_wh: tuple[PictureSide, PictureSide]
    """Width and height of the original image in pixels."""
    rle: str = Field(pattern=r"\A(?:[P-o]{0,6}[0-O])+\z")
    """The compressed run lengths of COCO, which go down the columns.

    A number is at most 7 characters, of which all but the last have the bit that says that it goes on.
    Whether the numbers fill the mask, `boxes.decode_mask` tells."""
    source: MaskSource
    """The method that made the mask."""

    @model_validator(mode="after")
    def _of_an_image(self) -> Self:
        if self.size_wh[0] * self.size_wh[1] > MOST_PIXELS:
            raise ValueError(f"a mask of {self.size_wh} is larger than any image, {MOST_PIXELS:,} pixels")
        return self


class Question(Record):
    """A question about a sample, with its gold answer."""

    id: str
    """The name of the question, unique in its data set."""
    kind: Kind
    """The subtask that it belongs to."""
    text: str
    """The question as it is asked, without its options."""
    options: tuple[str, ...] = ()
    """Option texts in the order of their letters; empty for grounding."""
    answer: str | None = None
    """The letter of the right option; None = unknown, or grounding."""
    boxes: tuple[Box, ...] | None = None
    """The right boxes in original pixels, for grounding: () = the image is clean, None = unknown."""
    completion: str | None = None
    """The user's own gold completion, reasoning and answer; None = fine-tuning writes one from the labels."""

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if len(self.options) > len(LETTERS):
            raise ValueError(
                f"question {self.id!r} has {len(self.options)} options, at most {len(LETTERS)} have letters"
            )
        if self.answer is not None and self.answer not in self.letters:
            raise ValueError(
                f"question {self.id!r}: the gold answer {self.answer!r} is none of its options "
                f"{self.letters!r}"
            )
        return self

    @property
    def letters(self) -> str:
        """The letters of the options."""
        return LETTERS[: len(self.options)]

    def option_text(self, letter: str | None) -> str:
        """The text of the option with this letter; empty for None and for a letter that no option has."""
        return dict(zip(self.letters, self.options, strict=True)).get(letter or "", "")


class Region(Record):
    """A place that differs from good parts."""

    box: Box
    """Around the place, in original pixels."""
    ratio: Ratio
    """The farthest patch, in units of what good parts show at most."""
    share: Probability
    """The share of the image that it covers."""
    outline: Mask | None = None
    """Its shape; None = not kept."""


class Evidence(Record):
    """What good parts say about a part."""

    score: Probability
    """How strange the part is; higher = stranger."""
    ratio: Ratio
    """The farthest patch, in units of what good parts show at most."""
    threshold: Probability | None = None
    """A score above it is strange; None = too few good parts for one."""
    false_alarm_rate: Probability | None = None
    """At most so many good parts are strange, at 95 % confidence; None = nothing is promised."""
    calibrated: bool = False
    """Whether `ratio` was measured between good parts; else it was estimated from copies of one to three."""
    coherent: bool = False
    """Whether the largest strange place is larger than good parts show."""
    same_kind: bool = True
    """Whether the part is of the kind that was learned, as far as that can be seen."""
    learned: PositiveInt = 1
    """How many good parts were learned."""
    held_out: NonNegativeInt = 0
    """How many good parts the threshold and the promise were made from."""
    defects: NonNegativeInt = 0
    """How many labelled defective parts score or threshold were learned from, too."""
    regions: tuple[Region, ...] = ()
    """The places that differ more than good parts do, the strangest first."""

    @property
    def is_strange(self) -> bool | None:
        """Whether the score says that the part is strange; None = there is no threshold."""
        return None if self.threshold is None else self.score > self.threshold


class Sample(Record):
    """An image with what is known about it; paths, not pixels."""

    id: str
    """The name of the sample, unique in its data set."""
    image: Path
    """The image file to inspect."""
    references: tuple[Path, ...] = ()
    """Known-good template images of the same class."""
    knowledge: str = ""
    """What is known about the class; never what reveals this sample's gold."""
    dataset: str = ""
    """The data set that the sample is from, e.g. "MVTec"; empty when it has no name."""
    category: str = ""
    """The kind of part, e.g. "bottle"; empty when it has no name."""
    defect: str | None = None
    """The name of the defect; None = good or unknown, `anomalous` tells which."""
    anomalous: bool | None = None
    """Whether the part has a defect; None = unknown."""
    logical: bool = False
    """Whether the anomaly is logical (MVTec LOCO): each part looks right, only the design tells that
    something is wrong."""
    mask: Path | None = None
    """An image file, or a folder whose image files together are the mask (MVTec LOCO);
    `data.mask_files.read_mask` opens both."""
    mask_runs: Mask | None = None
    """The true mask as run lengths, where a COCO file outlines the defects and boxes were asked for;
    `data.mask_files.true_mask` gives either."""
    boxes: tuple[Box, ...] | None = None
    """The true boxes of the defects in original pixels: () = clean, None = unknown."""
    questions: tuple[Question, ...] = ()
    """The questions that the data set asks about the image."""
    evidence: Evidence | None = None
    """What good parts of its class say about the image; None = it was not compared with any."""

    @property
    def class_name(self) -> str:
        """Data set and category, e.g. "MVTec/bottle"; one name where both are the same, else "(no class)"."""
        return "/".join(dict.fromkeys(part for part in (self.dataset, self.category) if part)) or "(no class)"


class Answer(Record):
    """What one completion says."""

    status: Status
    """How the completion could be read: as the format asks, with a leniency, or not at all."""
    reasoning: str = ""
    """What the completion says before its answer."""
    conclusion: str | None = None
    """The option letter that the reasoning ends on; None = it names none."""
    says_defect: bool | None = None
    """Whether the reasoning says that there is a defect; None = silent."""
    place: str | None = None
    """One of `PLACES`, where the reasoning puts the defect; None = not said."""
    choice: str | None = None
    """The option letter of the answer; None = it has none."""
    boxes: tuple[Box, ...] | None = None
    """The boxes of the answer in original pixels: None = not said (or frame unknown), () = said: none."""
    unmapped_boxes: tuple[ModelBox, ...] | None = None
    """The boxes of the answer in the model's units, where no frame was given that could map them."""
    raw: str = ""
    """The whole completion, as the model wrote it."""
    counts: dict[str, int] = Field(default_factory=dict)
    """How often something was dropped, clipped or read leniently, under its name."""


class Reply(Record):
    """One completion for one question, and its reading."""

    question_id: str
    """The id of the question that was asked."""
    completion: str
    """What the model wrote."""
    answer: Answer
    """What the completion says."""
    finish: Literal["stop", "length"] = "stop"
    """Whether the policy ended the completion, or the limit on its length did."""
    option_scores: dict[str, Probability] | None = None
    """The probability of each option letter; None = not computed."""


class Votes(Record):
    """What several samples of the same questions say."""

    verdicts: dict[Verdict, int]
    """How many samples came to each verdict."""
    box_stability: float | None = None
    """The mean set IoU of the boxes of two samples, over all pairs whose boxes could be read; None with fewer
    than two."""

    @property
    def samples(self) -> int:
        """How many samples there were."""
        return sum(self.verdicts.values())

    @property
    def agreement(self) -> float:
        """The share of samples that came to the commonest verdict."""
        return max(self.verdicts.values()) / self.samples


class Inspection(Record):
    """The answers made useful: what a person, a report or a line controller needs."""

    sample_id: str
    """The id of the sample that was inspected."""
    verdict: Verdict
    """What is to be done: "good" and "defect" follow from the answers, "unsure" asks for a person."""
    score: Probability | None = None
    """The anomaly score in 0..1; None = not computed."""
    score_from: str = ""
    """How the score was made, in words; empty where there is none."""
    votes: Votes | None = None
    """How several samples voted; None = one sample was asked for."""
    reason: str = ""
    """Why the verdict is what it is, in words; never empty for "unsure"."""
    boxes: tuple[Box, ...] | None = None
    """The boxes of the defects in original pixels: None = not said, () = none."""
    masks: tuple[Mask, ...] | None = None
    """One mask a box, in the order of `boxes`, for at most 20 of them; None = not asked for."""
    replies: tuple[Reply, ...] = ()
    """What the model said to each question, in the order in which they were asked."""
    counts: dict[str, int] = Field(default_factory=dict)
    """How often something was dropped, clipped, read leniently or replaced, under its name."""
    error: str | None = None
    """What failed, in words; the verdict is then "unsure"."""
    image_sha256: str = ""
    """The SHA-256 of the image file that was inspected; empty when it could not be read."""
    evidence: Evidence | None = None
    """What good parts say about the part; None = it was not compared with any."""

    @model_validator(mode="after")
    def _fail_safe(self) -> Self:
        if self.error is not None and self.verdict != "unsure":
            raise ValueError(
                f"inspection {self.sample_id!r} failed, so its verdict must be 'unsure', not {self.verdict!r}"
            )
        return self


class Fingerprint(Record):
    """What an inspections file was made with; its first line. Resuming under another one is refused."""

    model: str
    """The model as it was named: a bundled policy, a folder, or a name on the hub."""
    revision: str = ""
    """The commit on the hub, or a digest of the weights of a local folder."""
    family: str
    """The family that the model belongs to, one of `images.FAMILIES`."""
    style: str
    """The prompt style with a digest of its text, or "file" with a digest of the user's own."""
    max_pixels: int
    """The largest image that the model is shown, in pixels."""
    taught: str = ""
    """What the policy was taught with, in words, where it is asked otherwise; else empty."""
    given: str = ""
    """A digest of the knowledge and the reference images that all samples were given; empty when none."""
    option_order: str = "given"
    """The order in which the options of a question were shown."""
    seed: int = 0
    """The seed of sampled completions."""
    engine: str
    """The engine that ran the model."""
    masks: str = "none"
    """The method that made the masks."""
    sampling: str = "greedy"
    """How tokens were chosen."""
    threshold: str = ""
    """A digest of the threshold that verdicts follow; empty when none."""
    evidence: str = ""
    """The digest of the bank of good parts, how it is told and what it decides; empty when none."""
    versions: dict[str, str] = Field(default_factory=dict)
    """The versions of what computes the completions, by name."""

    def same_weights(self, earlier: Fingerprint) -> bool:
        """Whether a digest says that both models are the same, wherever their folders lie by now."""
        return self.revision == earlier.revision and self.revision.startswith("sha256:")


def first_error(error: ValidationError) -> str:
    """The first fault that pydantic names: where it lies (dotted, or empty), a colon, what is wrong."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return shortened(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}")


def shortened(text: str, length: int = 300) -> str:
    """A text for a message: of a longer one the beginning, and how long it is."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def quoted(value: object) -> str:
    """A value from a file as a message shows it: at most 200 characters of it."""
    if isinstance(value, str | Path):
        text = str(value)
        return repr(text) if len(text) <= 200 else f"{text[:200]!r}... ({len(text):,} characters)"
    return shortened(reprlib.repr(value), 200)


def nearest_name(name: str, known_names: Iterable[str]) -> str | None:
    """The known name that is spelled most like `name`; None when none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known_names), n=1)), None)
