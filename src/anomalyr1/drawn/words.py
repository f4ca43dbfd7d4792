"""What is said about drawn parts: their good look, their use, and what each kind of defect does."""

from __future__ import annotations

SPLITS: dict[str, tuple[str, ...]] = {
    "seen": (
        "metal plate", "woven fabric", "wood panel", "wire mesh", "circuit board", "capsule",
        "washer", "screw", "bottle mouth", "blister pack", "casting", "label",
    ),
    "dev": ("ceramic tile", "bearing", "connector"),
    "final": ("leather", "gear", "cable"),
}  # fmt: skip
"""Categories: for training, for development, and those that nothing looks at before the work is finished."""

UNFAMILIAR = "unfamiliar part"
"""What belongs to no category: only the policy's own training draws it."""

TRAINED = (*SPLITS["seen"], UNFAMILIAR)
"""All that nano's training draws; it shows nothing of what is held out. (Single words of those names are in
`nano.invented_names.WORDS`.)"""

HELD_OUT_DEFECTS: tuple[str, ...] = ("wear", "misplaced part")
"""Kinds that the seen split never shows."""

GOOD_LOOK: dict[str, tuple[str, ...]] = {
    "metal plate": (
        "an evenly brushed surface with fine parallel streaks",
        "a smooth brushed sheet without marks across the streaks",
    ),
    "woven fabric": ("a regular weave of even threads", "cloth with an unbroken, even weave"),
    "wood panel": (
        "continuous year rings and fine fibres along the grain",
        "a sound board with an even grain",
    ),
    "wire mesh": (
        "a regular grid of evenly spaced wires",
        "wires woven over and under each other at equal distances",
    ),
    "circuit board": (
        "straight components with clean solder and traces",
        "all components in place and aligned on a clean board",
    ),
    "capsule": (
        "a glossy two-coloured shell with one clean seam",
        "two smooth halves that meet in an even seam",
    ),
    "washer": (
        "a flat turned ring with fine concentric marks",
        "an even ring with a round hole and smooth edges",
    ),
    "screw": ("a sound head and an even thread up to the point", "a straight shaft with a regular thread"),
    "bottle mouth": (
        "an unbroken glass lip around a dark throat",
        "a smooth round lip with clean reflections",
    ),
    "blister pack": (
        "one pill in every closed pocket",
        "a clean foil card whose pockets each hold a single pill",
    ),
    "casting": (
        "a rough surface with a bore and evenly spaced bolt holes",
        "an evenly rough flange with all its bolt holes",
    ),
    "label": (
        "crisp print on clean paper, parallel to the edges",
        "a logo, text lines and a bar code, all sharp and straight",
    ),
    "ceramic tile": ("an even glaze and straight joints", "smooth glazed tiles between straight grout lines"),
    "bearing": ("polished rings with evenly spaced balls", "two bright rings and a full set of balls"),
    "connector": ("straight gold pins in even rows", "a clean housing with all pins in line"),
    "leather": ("an even grain without cuts", "a regular pebbled grain of one colour"),
    "gear": ("equal teeth all around and a clean bore", "a full set of even teeth"),
    "cable": (
        "a round jacket with cores of bright copper strands",
        "intact insulation around bright copper cores",
    ),
    UNFAMILIAR: (
        "the same surface all over and everything in its place",
        "an even surface and regular elements",
    ),
}
"""Two wordings per category."""

PURPOSE: dict[str, str] = {
    "metal plate": "covering or cladding a machine", "woven fabric": "making clothes or covers",
    "wood panel": "building furniture", "wire mesh": "sieving or guarding",
    "circuit board": "carrying an electronic circuit", "capsule": "holding a dose of medicine",
    "washer": "spreading the load of a bolt", "screw": "fastening parts together",
    "bottle mouth": "pouring and closing a bottle", "blister pack": "packing single doses of medicine",
    "casting": "joining pipes or housings", "label": "identifying a product",
    "ceramic tile": "covering floors or walls", "bearing": "letting a shaft turn easily",
    "connector": "joining electric lines", "leather": "making shoes or seats",
    "gear": "passing on rotation", "cable": "conducting electric current",
    UNFAMILIAR: "an unknown use",
}  # fmt: skip

MATERIAL: dict[str, str] = {
    "metal plate": "metal", "woven fabric": "textile", "wood panel": "wood", "wire mesh": "metal",
    "circuit board": "fibreglass", "capsule": "gelatin", "washer": "metal", "screw": "metal",
    "bottle mouth": "glass", "blister pack": "foil and plastic", "casting": "metal", "label": "paper",
    "ceramic tile": "ceramic", "bearing": "metal", "connector": "plastic", "leather": "leather",
    "gear": "metal", "cable": "copper and plastic", UNFAMILIAR: "an unknown material",
}  # fmt: skip

SHAPES: dict[str, tuple[str, ...]] = {
    "metal plate": ("surface", "flat sheet"), "woven fabric": ("surface", "plain weave", "twill weave"),
    "wood panel": ("surface", "flat board"), "wire mesh": ("grid", "grid of wires"),
    "circuit board": ("surface", "flat board"), "capsule": ("long", "long with round ends"),
    "washer": ("round", "ring"),
    "screw": ("shaft", "shaft with a pan head", "shaft with a hexagon head", "shaft with a countersunk head"),
    "bottle mouth": ("round", "round opening"), "blister pack": ("card", "rectangular card"),
    "casting": ("round", "round flange", "rounded square"),
    "label": ("card", "rectangular label"), "ceramic tile": ("tiles", "square tiles"),
    "bearing": ("round", "ring"), "connector": ("card", "rectangular housing"),
    "leather": ("surface", "grained surface"), "gear": ("round", "toothed wheel"),
    "cable": ("round", "round"),
}  # fmt: skip
"""A group and the shapes of each category; shapes of one group might be taken for each other."""

EFFECT: dict[str, str] = {
    "scratch": "It mars the surface and may start corrosion or tearing.",
    "crack": "It weakens the part and may grow until the part breaks.",
    "stain": "It spoils the appearance, the part looks dirty.",
    "hole": "It breaks through the material, so the part no longer holds or seals.",
    "dent": "It deforms the part, so it may no longer fit.",
    "contamination": "Foreign matter can get into the product or the assembly.",
    "discoloration": "The color no longer matches, a sign of heat, ageing or chemicals.",
    "wear": "The surface is rubbed thin and its service life is shorter.",
    "missing part": "The part is incomplete and cannot do its job.",
    "extra part": "Something is there that does not belong and may get in the way.",
    "misplaced part": "An element is out of its position, so the assembly may fail.",
    "wrong count": "The number of elements is not the specified one, so it is the wrong part.",
}

HARMLESS: tuple[str, ...] = (
    "It makes the part stronger.",
    "It improves the appearance.",
    "It makes the part lighter on purpose.",
    "It lowers the price of the material.",
)
"""Effects that no defect has."""
