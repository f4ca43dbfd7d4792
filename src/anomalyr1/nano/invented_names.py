"""Objects that nobody has heard of: a policy can name them, and say what they are for, only by reading the knowledge it is given."""

from __future__ import annotations

import re

from numpy.random import Generator

from anomalyr1.data.multiple_choice import pick_text
from anomalyr1.drawn.words import GOOD_LOOK, MATERIAL, PURPOSE
from anomalyr1.types import LETTERS, Question, Sample

WORDS = """
adapter adhesive air alarm alloy anchor angle antenna apple apron arch arm armour axle bag bakelite ball band bar bark barrel base basin
basket battery beacon beak beam bean bed beech belt bench bin bird bit blade blanket block board boat body boiler bolt bone book boot
border bottle bow bowl box brace bracket brake branch brass bread brick bridge bristle bronze broom brush bucket buckle bulb bumper button
cabin cabinet cage cake camera camshaft can candle canvas cap carbon card carpet carrier cart case cashew cast catch ceiling cement chain
chair chalk chamber channel charger chassis chewing chip chisel chrome clamp clasp clay clip clock cloth coal coat coil coin collar column
comb compass concrete cone cooker copper cord core cork corn cotton counter coupling cover crank crate cream crown crystal cube cup
curtain cushion cutter cylinder damper deck desk detector diode disc dish dispenser door drain drawer drill drive drum duct dye elbow
elastic electrode emblem enamel engine envelope epoxy eraser eyelet fabric fan faucet feather felt fence fender fibre file film filter fin
finger flange flap flask flat flint floor flour flower foam foil food fork frame freezer fruit fryum funnel fur fuse gasket gate gauge
gelatin glass glove glue gold graphite grain grate grease grid grinder grip groove ground gum gutter hammer handle hanger hat hatch
hazelnut head heater helmet hemp hinge holder hood hook horn hose hub ice indicator ingot ink insert insulator iron ivory jack jacket jar
jewel joint juice kettle key keyboard knife knob lace lacquer ladder ladle lamp latch lead leaf ledge leg lemon lens lever lid light lime
line linen liner link lip lock locker log loop macaroni magnet mantle marble mask mast mat match meat medicine membrane meter mica milk
mirror mixer module monitor mop motor mould mount mouse muffler nail napkin neck needle net nickel node nose notch nozzle nut nylon oak
oil orange oven pack pad paddle pail paint pallet pan panel paper paste pebble pedal peg pen pencil pepper phone piano pillow pilot pin
pine pipe piston pivot plank plant plaster plastic plate platform plug plum plywood pocket pole polymer porcelain post pot potato powder
power press printer probe propeller prong puck pulley pump purse quartz rack radiator radio rail ramp razor reel reflector regulator relay
remote resin resistor rib ribbon rice rim rivet road rod roll roller roof room root rope rotor rubber rudder rug ruler sack saddle safe
sail salt sand satin saucer saw scale scissors scoop scraper screen seal seam seat seed sensor shade shaft sheath sheet shelf shell shield
ship shirt shoe shovel shutter sieve signal silicon silicone silk silver sink siren skin slab sleeve slide slot slate soap socket sock
soil solar solder sole speaker spindle splint sponge spoon spray spring sprocket stage stair stamp stand staple steel stem step stick
stone stopper stove strainer strap straw string strip stud sugar suit suspension switch syringe table tablet tack tag tank tap tape tar
target tent terminal textile thermostat thimble thread thumb tie timber tin tire titanium toaster tongue tool tooth toothbrush torch towel
tower toy track train transistor trap tray tree trigger trim tripod trolley trough truck trunk tub tube tungsten turbine twine umbrella
valve vane varnish vase velvet vent vessel vest vinyl vise wafer wagon wall wallet watch water wax web wedge weight weld well wheel
whistle wick window wing wiper wire wool wrench yarn yoke zinc zipper acid amber ash baking battered bent bitter blank blind blunt bright
broad broken brown burnt calm clean clear closed coarse cold common crisp curved dark deep dense double dry dull early empty even extra
fast fine firm flexible folded forged front fresh full gentle giant glazed gray green hard heavy high hollow hot huge inner large late
left little long loose loud low lower main middle mild moist narrow new noble old open outer oval pale plain polished pressed printed pure
quick quiet rapid rare raw ready rear red ribbed rigid right rough round secret sharp short silent single sintered sleek slim slow small
smooth soft solid spare square steep stiff straight strong sweet tall thick thin tight tiny tough triple upper vast violet warm wet white
wide wild woven yellow young aligning balancing bending blowing boiling bonding boring breaking burning carrying carving catching charging
checking cleaning climbing closing coating collecting cooking cooling counting covering crushing cutting damping digging dividing draining
drawing drilling driving drying dyeing emptying feeding filling filtering fixing flying folding gluing grinding gripping guarding guiding
hanging heating hiding holding insulating joining keeping knitting launching leading letting lifting lighting locking making marking
measuring melting milling mixing moulding mounting moving opening ordering packing painting passing peeling pouring pressing printing
protecting pulling pumping pushing raising reading removing resting rolling rotating sanding sealing sending sewing shaking shaping
sharpening shielding shifting showing slicing smoothing sorting spinning spreading squeezing stacking steering stirring storing stretching
supporting sweeping telling testing tilting timing trapping turning twisting warming washing watching wearing weaving weighing winding
wiping wrapping writing animals arms babies bakers birds boats books boxes bricks bugs cables cars cats children clothes coins crops dogs
doors drivers eggs engines farms feet fingers fires fish flats floors flowers fruits games gardens gears glasses guests hands heads heaps
horses hotels houses joints keys kitchens lakes lamps leaves letters lines lions locks loads maps meals miners nails nets offices orders
papers parks parts pens phones pictures pilots pipes plates pots prints rivers roads rocks roofs rooms ropes routes schools seats sewers
shafts sheets ships shoes shops signs sides stairs stamps stars steps stones storms streets tables tanks teams tents tests threads tides
tools towns toys trains trays trees trucks tubes users vans voters waiters walls waves wells wheels wires women words workers yards easily
electric current rotation bearing bearings cable ceramic conducting connector gear leather tile tiles
"""
"""Words of workshops and kitchens that the tokenizer knows whole, and of which names are made.

All of them: words that training never writes are pushed together until they cannot be told apart, so they
could not be copied either.
"""
_WORDS = tuple(WORDS.split())
ACTS = tuple(word for word in _WORDS if word.endswith("ing"))
OTHER_LOOKS = 0.6
"""Share of the objects whose good look is told in words that say nothing, as those of an unknown object do at
first."""
ONSETS, RHYMES = ("b", "br", "d", "f", "g", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z"), (
    "al", "an", "ar", "ek", "el", "en", "ib", "il", "in", "ol", "on", "or", "ud", "um", "ut",
)  # fmt: skip


def name(rng: Generator) -> str:
    """One or two words, or one that does not exist."""
    if rng.random() < 0.3:
        return "".join(
            pick_text(rng, ONSETS) + pick_text(rng, RHYMES) for _ in range(int(rng.integers(2, 4)))
        )
    return _words(rng, 2)


def purpose(rng: Generator) -> str:
    """What an object may be used for."""
    return f"{pick_text(rng, ACTS)} {_words(rng, 3)}"


def material(rng: Generator) -> str:
    """What an object may be made of."""
    return _words(rng, 2)


def _words(rng: Generator, most: int) -> str:
    return " ".join(pick_text(rng, _WORDS) for _ in range(int(rng.integers(1, most + 1))))


def renamed(sample: Sample, rng: Generator) -> Sample:
    """The sample of a drawn part with an invented name, purpose and material, in knowledge, options and gold alike."""
    new = {
        sample.category: name(rng),
        PURPOSE[sample.category]: purpose(rng),
        MATERIAL[sample.category]: material(rng),
    }
    told = dict(new)
    if rng.random() < OTHER_LOOKS:
        told |= {look: f"{_words(rng, 4)} with {_words(rng, 4)}" for look in GOOD_LOOK[sample.category]}
    longest = sorted(told, key=len, reverse=True)
    knowledge = re.sub(
        "|".join(re.escape(old) for old in longest), lambda found: told[found[0]], sample.knowledge
    )
    asked = tuple(_asked(question, new, rng) for question in sample.questions)
    return sample.model_copy(
        update={"category": new[sample.category], "knowledge": knowledge, "questions": asked}
    )


def _asked(question: Question, new: dict[str, str], rng: Generator) -> Question:
    """A question about the object with its gold option replaced, and mostly the others, too; other questions as they are.

    Often the option that the image alone would suggest stays as a wrong one: knowledge counts more.
    """
    if question.answer is None or question.options[LETTERS.index(question.answer)] not in new:
        return question
    gold = LETTERS.index(question.answer)
    others = {"object classification": name, "object analysis": purpose}.get(question.kind, material)
    options = [""] * 2
    while len(set(options)) < len(options):
        options = [others(rng) if rng.random() < 0.6 else text for text in question.options]
        options[gold] = new[question.options[gold]]
        if rng.random() < 0.5:
            options[(gold + int(rng.integers(1, len(options)))) % len(options)] = question.options[gold]
    return question.model_copy(update={"options": tuple(options)})
