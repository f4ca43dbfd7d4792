"""What the words around an option's letter say of it: tables of rules of which the first that fits decides.

A rule is a pattern of `clauses` in which X is the option. Each has a sentence in which it decides, and a test
reads them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, NamedTuple

from anomalyr1.answers.clauses import Clause
from anomalyr1.answers.mentions import Mention


class Ruling(Enum):
    """What a rule makes of an option."""

    ANSWER = "is said to be the answer"
    FITS = "is said to fit"
    NAMED = "is said to name what is seen, which counts where another option is spoken against"
    HINT = 'alone is said to name what is seen, which a "but" takes back'
    LABEL = "stands before its text, like an item of a list"
    AGAINST = "is spoken against"
    NOTHING = "is neither"


class Rule(NamedTuple):
    """What one way of speaking says of an option."""

    name: str
    ruling: Ruling
    example: str
    """A sentence in which the rule decides about option B."""
    pattern: str
    """The words around the option, which is X."""
    concludes: bool = False
    """Gives the option as the conclusion, as "so" does."""
    alone: bool = False
    """Only where every other option of the clause is spoken against, or only supposed."""
    form: Literal["", "firm", "bracketed", "labelled", "own_text"] = ""
    """What the `Mention` must be."""


ANSWER, FITS, NAMED, HINT, LABEL, AGAINST, NOTHING = Ruling


def first_rule(
    rules: Sequence[Rule], clause: Clause, place: int, mention: Mention | None = None, alone: bool = False
) -> Rule | None:
    """The first rule that fits an option at a place of a clause; `alone` = no other option of it is open."""
    for rule in rules:
        if (rule.alone and not alone) or (rule.form and not getattr(mention, rule.form)):
            continue
        if clause.surrounds(rule.pattern, place):
            return rule
    return None


DENIALS = (
    # All options but one
    Rule("anything but X", AGAINST, "It is anything but B.",
         "anything <but_for> X"),
    Rule("all but X fail", NOTHING, "All options except B are wrong.",
         "<every> _{0,9} <but_for> X ... <wrong>"),
    Rule("drop all but X", NOTHING, "I rule out everything except B.",
         "<wrong> _{0,9} <every> _{0,9} <but_for> X"),
    Rule("but for X, all fail", NOTHING, "Except for B, all options are wrong.",
         "<but_for> X ... <every> ... <wrong>"),
    Rule("all but X", AGAINST, "All options but B are plausible.",
         "<every> _{0,9} <but_for> X"),
    Rule("but for X, all", AGAINST, "Except for B, all options fit.",
         "<but_for> X ... <every>"),
    Rule("none but X", NOTHING, "No option fits except B.",
         "<none> _{0,9} <but_for> X"),
    Rule("but for X, none", NOTHING, "Apart from B, none of the options fits.",
         "<but_for> X ... <none>"),
    # Spoken against before it
    Rule("cannot drop X", NOTHING, "I cannot exclude B.",
         "(<not>|nothing|never) _{0,2} <drop> <passing>{0,9} X"),
    Rule("drop X", AGAINST, "That rules out B.",
         "<drop> <passing>{0,9} X"),
    Rule("not X", AGAINST, "It is not B.",
         "(<denying>|rather que) <passing>{0,11} X"),
    Rule("not what X says", AGAINST, "This is not what option B says.",
         "<not> _{0,3} what <filler>* X"),
    Rule("no X", AGAINST, "There is no B.",
         "no <passing>? X"),
    # Spoken against after it
    Rule("X, no", AGAINST, "B, no, A.",
         "X (,|-|.)* (no|sorry|wait|oops|rather) (,|:|-)"),
    Rule("X, not Z", NOTHING, "B, not A, is correct.",
         "X (,|;|rather|instead|not|over|and|or|because)"),
    Rule("X names something wrong", NOTHING, "Only B mentions a wrong position.",
         "X <speaks> (a|an|the) <against>"),
    Rule("X is not wrong", NOTHING, "B is not incorrect.",
         "X <pause> (!(<stop>|<against>|:)){0,8} <not> _{0,2} <failing>"),
    Rule("X is wrong", AGAINST, "B is wrong.",
         "X <pause> (!(<stop>|<against>|:)){0,8} <against>"),
)  # fmt: skip
"""For options, alone or listed together: whether they are spoken against. NOTHING leaves them to `CLAIMS`."""

CLAIMS = (
    Rule("all but X", ANSWER, "All options except B are wrong.",
         "(<every>|<none>) _{0,9} <but_for> X", concludes=True),
    Rule("but for X, all", ANSWER, "Except for B, all options are wrong.",
         "<but_for> X ... (<every>|<none>)", concludes=True),
    Rule("X or", NOTHING, "It is B, or perhaps not.",
         "X ,? or"),
    Rule("X as well as", NOTHING, "B explains it as well as C.",
         "X !(,){0,5} as (well|much|good|likely|plausible) as"),
    Rule("X would only", NOTHING, "B would only be right for a cut lead.",
         "X (would|could) only"),
    Rule("change to X", ANSWER, "My answer changes from A to B.",
         "<change> _{0,3} <option> to X", concludes=True),
    # A ruling after it
    Rule("X is the most likely", ANSWER, "B is the most likely.",
         "X <pause> <link> <linking>* (most|more|only|the) <linking>* (<suits>|what)"),
    Rule("X is likely", FITS, "B is plausible.",
         "X <pause> <link> <linking>* (<suits>|what)"),
    Rule("X comes out on top", ANSWER, "B comes out on top.",
         "X comes (on top|ahead)"),
    Rule("X is all that is left", ANSWER, "B is all that's left.",
         "X <link> (all|everything) ... (left|remains)"),
    Rule("only X is possible", ANSWER, "Only B is possible.",
         "only <filler>* X <link> <linking>* (<possible>|<suits>|into (question|consideration))"),
    Rule("X is an option", NOTHING, "B is an option.",
         "X <pause> <link> <linking>* (a|an) <counted>"),
    Rule("X is right next to", NOTHING, "B is right next to A.",
         "X <link> <linking>* right <where>"),
    Rule("X is right", ANSWER, "B is correct.",
         "X <pause> (<link> <linking>* (<right>|it (<mark>|$|<reason>)|way to go)|the (correct|right))"),
    Rule("X correct", ANSWER, "B it is.",
         "X (it (is|(must|has to|should|shall|would) be)|<pause> (<link> <linking>*)? (<yes>|correct))"),
    Rule("X makes sense", FITS, "B makes sense.",
         "X <linking>* makes _{0,3} sense"),
    Rule("X also fits", FITS, "B also fits well.",
         "X <linking>* also <linking>* (<fits>|<well>)"),
    Rule("X fits best", ANSWER, "B fits best.",
         "X <pause> (<link> <linking>*)? <fits> _{0,3} (<well>|only)"),
    Rule("X best fits", ANSWER, "B best matches the picture.",
         "X <pause> (<link> <linking>*)? <well> _"),
    Rule("X fits", FITS, "B fits.",
         "X <pause> (<link> <linking>*)? <fits>"),
    Rule("X does", FITS, "A doesn't explain it; B does.",
         "X (does|is) (<mark>|$)"),
    Rule("X then", FITS, "The line is thin. B then.",
         "X ,? (then|rather|instead) <end>", concludes=True),
    Rule("X describes it", FITS, "Not A: the line is thin. B describes it.",
         "X <linking>* (<tells> (it|this|these|that <mark>) (!(as)|$)|<speaks> (for|of)? <what_is_seen>)"),
    Rule("X does describe it", FITS, "Not A: the line is thin. B does describe it.",
         "X does <tell> <what_is_seen>"),
    Rule("X explains", FITS, "B accounts for the line.",
         "X <linking>* (explains|accounts for)"),
    Rule("X, which fits", FITS, "Option B names a line, which is what I see.",
         "X ... (which|this|that) (<fits>|(is|was) (exactly|indeed|also)? (what|visible|seen|shown|here))"),
    Rule("only X mentions it", HINT, "Only B mentions a line.",
         "<sole> <filler>* X (!(<link>|<stop>|<against>|<mark>|or|can|does|was)|is about) <unrefuted>",
         alone=True),
    Rule("X alone mentions it", HINT, "Option B alone speaks of a line.",
         "X (alone|only) <speaks> <unrefuted>", alone=True),
    Rule("mentioned by X only", HINT, "A line is mentioned by B only.",
         "(mentioned|named|listed) (by|in) <filler>* X (only|alone) <unrefuted>", alone=True),
    Rule("X would describe", NAMED, "Not A: it is thin. B would describe it.",
         "X would <tell>", alone=True),
    Rule("X describes the", NAMED, "Not A: it is thin. B describes the line.",
         "X <tells> the !(as)* $", alone=True),
    # A ruling before it
    Rule("options are X", NOTHING, "The options are B: Scratch",
         "((^|<clause_stop>) !(<of>){0,2}|!(<of>){3}) <options> <subject> (are|:) <filler>* X"),
    Rule("so is X", NOTHING, "A is possible, and so is B.",
         "so (is|does|would|could|might) <filler>* X"),
    Rule("answer is X", ANSWER, "The answer is B.",
         "<answer> <subject> <copula> <filler>* X", concludes=True),
    Rule("-> X", FITS, "The printed line is thin -> B",
         "<arrow> <filler>* X", concludes=True),
    Rule("name is X", NOTHING, "The label on the part is B.",
         "<naming> <subject> <equals> <filler>* X"),
    Rule("it is X", ANSWER, "It is B.",
         "(it|this|that|which) <copula> <filler>* X", concludes=True),
    Rule("it's X", ANSWER, "It's B.",
         "<shortened> <filler>* X", concludes=True),
    Rule("name: X", NOTHING, "Label: B",
         "<naming> _? : <filler>* X"),
    Rule("so: X", FITS, "The pin is bent: B.",
         ": <filler>* X", concludes=True, alone=True),
    Rule("list: X", NOTHING, "Next to A: B",
         ": <filler>* X"),
    Rule("it is what X says", FITS, "This is what option B says.",
         "(<equals>|<support>|see) _{0,2} what <filler>* X <speaks>"),
    Rule("it is a case of X", FITS, "This is a clear case of B.",
         "<equals> (a|an) _? (case|example|instance) of <filler>* X"),
    Rule("is X", FITS, "What remains is B.",
         "<copula> <filler>* X", concludes=True),
    Rule("wrong to choose X", NOTHING, "It would be a mistake to choose B.",
         "(wrong|incorrect|mistake|error) _{0,3} <choose> <filler>* X"),
    Rule("was choosing X", NOTHING, "I was leaning towards B.",
         "was _{0,3} <choosing> <filler>* X"),
    Rule("was going to say X", NOTHING, "I was going to say B.",
         "was _{0,2} (going|about|inclined) _{0,2} <choose> <filler>* X"),
    Rule("choosing X would", NOTHING, "Selecting B would ignore the print.",
         "<choosing> <filler>* X (would|means|requires|assumes)"),
    Rule("before choosing X", NOTHING, "Before choosing B, check the depth.",
         "<held> _? <choose> <filler>* X"),
    Rule("choose X", ANSWER, "I choose B.",
         "<choose> <filler>* X", concludes=True),
    Rule("I answer X", ANSWER, "That is why I answer B.",
         "(i|we|i'd|i'll|would|will|can|must) <filler>* (answer|guess) <filler>* X", concludes=True),
    Rule("my vote goes to X", ANSWER, "My vote goes to B.",
         "(vote|preference|choice|pick) (goes|falls|is) <filler>* X", concludes=True),
    Rule("sure of X", FITS, "I'm fairly confident in B.",
         "(confident|certain|sure) (in|of|about) <filler>* X", concludes=True),
    Rule("we end up with X", FITS, "We end up with B.",
         "(end|ends|ended) up at? <filler>* X"),
    Rule("or rather X", ANSWER, "A, or rather B.",
         "or ,? <rather> ,? <filler>* X", concludes=True),
    Rule("for X", FITS, "The line speaks against A and for B.",
         "against <option> (and|but) (rather|instead)? for X"),
    Rule("more for X", FITS, "There is more evidence for B than for A.",
         "more _{0,3} (for|to|like|with|in) X"),
    Rule("in favour of X", FITS, "All of this speaks in favour of B.",
         "in (favor|favour) of <filler>* X"),
    Rule("points to X", FITS, "Everything points to B.",
         "<support> <filler>* X"),
    Rule("text (X)", FITS, "It is a print defect (B).",
         "!(<filler>) <filler>* X (.|!|,|$)", alone=True, form="bracketed"),
    # Alone
    Rule("X because", FITS, "B, because the surface is even.",
         "^ <adverb>* X (,|-)? <reason>", concludes=True, alone=True),
    Rule("X, the line", FITS, "B - the line is thin.",
         "^ <adverb>* X (,|-) (the|there|it|this) (!(<against>)|<option>)* $",
         concludes=True, alone=True, form="firm"),
    Rule("X. Scratch", LABEL, "B. Scratch",
         "^ <adverb>* X <end>", concludes=True, alone=True, form="own_text"),
    Rule("option X", FITS, "Option B.",
         "^ option X <end>", alone=True),
    Rule("X, clearly", FITS, "B, definitely.",
         "^ <adverb>* X ,? (<adverb>|for sure|(i|we|i'd) would? (guess|think|say|believe))+ <end>",
         concludes=True, alone=True),
    Rule("clearly X", FITS, "Clearly b.",
         "^ <adverb>* X <end>", concludes=True, alone=True),
    Rule("X: text", LABEL, "B: a thin line is visible",
         "^ X _", alone=True, form="labelled"),
    Rule("in the end X", FITS, "I hesitate, but in the end B.",
         "<summing> ,? <filler>* X <end>", concludes=True, alone=True),
    Rule("between XX, X", FITS, "Between A and B, B.",
         "(between|of|from) <option> (, ...)? , <filler>* X <end>", concludes=True),
    Rule("but X", ANSWER, "Not a but b.",
         "but <filler>* X <end>", concludes=True, alone=True),
    Rule("so X", FITS, "So b.",
         "<marker> <filler>* X <end>", alone=True),
    Rule("so this, X", FITS, "So at this depth, B.",
         "<marker> _{0,11} X (<end>|,|because|since|as|-|given|:)", alone=True, form="firm"),
    Rule("answer X", ANSWER, "By elimination, answer B.",
         "<lone> <filler>* answer <filler>* X <end>", alone=True),
    Rule("this, X", FITS, "By elimination, B.",
         "(,|<lone> <filler>* option) <filler>* X <end>", alone=True),
)  # fmt: skip
"""For one option that is not spoken against: whether the clause claims it as the answer."""

DOUBTS = (
    Rule("X?", NOTHING, "Is the answer B?",
         "X <any_word>* <question>"),
    Rule("if so, X", NOTHING, "If the line were deep, the answer would be B.",
         "if <any_word>{0,60} X"),
    Rule("X if", NOTHING, "The answer would be B if the line were deep.",
         "X (!(,)|<option>){0,60} if"),
    Rule("perhaps X", NOTHING, "Perhaps the answer is B.",
         "<doubt> <any_word>{0,60} X"),
    Rule("X unless", NOTHING, "The answer is B unless the light deceives.",
         "X <any_word>{0,60} unless"),
    Rule("X, were it not", NOTHING, "I choose B, were it not for the scale.",
         "X <any_word>{0,60} (were|had) it not"),
    Rule("could be X", NOTHING, "It could be B.",
         "<resolved_doubt> (!(,)|<option>){0,60} X"),
    Rule("possibly X", NOTHING, "It is possible that the answer is B.",
         "(^|!(only|most|other|all)){2} <possible> <any_word>{0,60} X"),
    Rule("X is possible", NOTHING, "The answer is B, which is possible.",
         "(^|!(only|<save>|than|from)){2} X ... (!(only|most|other|all)){2} <possible>"),
    Rule("why X", NOTHING, "I do not see why it is B.",
         "(see|reason|know|understand) why <any_word>{0,60} X"),
    Rule("not sure of X", NOTHING, "I'm not sure, the answer is B.",
         "<not> sure <any_word>{0,60} X"),
    Rule("X, not sure", NOTHING, "It is B, I'm not sure.",
         "X <any_word>{0,60} <not> sure"),
    Rule("no way to choose X", NOTHING, "There is not enough light to choose B.",
         "(<not>|<unable>) !(,){0,8} to <choose> <filler>* X"),
    Rule("they say X", NOTHING, "An operator said the answer is B.",
         "(^|!(only)) <speaker> _? <says> <any_word>{0,60} X"),
    Rule("when there, X", NOTHING, "In case of a thin line choose B.",
         "^ (when there|in case) <any_word>* X"),
    Rule("had it, X would", NOTHING, "Were it thin, the answer would be B.",
         "^ (had|were) <any_word>* (would|i'd|we'd) <any_word>* X"),
    Rule("would have been X", NOTHING, "I would have said it is B.",
         "(would|i'd|could) have !(to) <any_word>{0,10} X"),
    Rule("X would have been", NOTHING, "B is what I'd have said.",
         "X !(<cause>|,){0,10} (would|i'd|could) have"),
    Rule("let's say X", NOTHING, "Let's say it is B.",
         "((let's|let us) (say|assume|suppose)|^ assume) <any_word>* X"),
    Rule("should it, X", NOTHING, "Should it be thin, the answer is B.",
         "^ (should|provided) <any_word>{2,} X"),
    Rule("first thought X", NOTHING, "My first thought was a scratch, B.",
         "first (thought|instinct|impulse|impression|guess|idea) <any_word>* X"),
    Rule("at first X", NOTHING, "At first glance it is B.",
         "(at first|first glance) <any_word>* X"),
    Rule("X at first", NOTHING, "It is B, at first glance.",
         "X ... (at first|first glance)"),
    Rule("X first", NOTHING, "I choose B first.",
         "X _? first"),
)  # fmt: skip
"""For an option that a clause claims: whether it is only asked, supposed, doubted, or what others say."""
