"""The text material of the default source."""

from __future__ import annotations

__all__ = ["BROKEN_UP", "PUNCTUATION", "SUFFIXES", "WHOLE", "WORDS"]

_TEXT = (
    "a about above across after again air all along also always an and animal answer apple are around as at away back "
    "bad be because before began being below best better between big bird black blue boat body book both box boy "
    "bread bring brother brown but by call came can car carry cat change child city clear close cloud cold come cook "
    "corner could country cover cup day deep did different do dog door down draw dream dry each early earth easy eat "
    "egg end enough even evening ever every eye face fall family far farm fast father feet few field find fire first "
    "fish five flower fly follow food for forest found four friend from front full garden gave get girl give glass go "
    "gold good grass great green ground grow had half hand happy hard has have he head hear heart heavy help her here "
    "high hill him his hold home hope horse hot hour house how idea if in into is island it its join jump just keep "
    "kind king knew know lake land large last late laugh learn leave left letter life light like line listen little "
    "live long look lost low made make many map may me mean men might milk mind moon more morning most mother "
    "mountain move much music must my name near never new next night no north not nothing now of off often old on "
    "once one only open or other our out over own page paper part path people place plan plant play point quiet rain "
    "ran read ready red rest rice ring river road rock room round run said same sat saw say school sea see seed seem "
    "she ship short should show side silver sing sister sit sky sleep slow small snow so some song soon sound south "
    "star start stay step still stone stood stop story street strong such summer sun sure swim table take talk tall "
    "tell than that the their them then there these they thing think this those three time to today together told too "
    "took top town tree true turn two under until up us use very voice wait walk wall want warm was watch water way "
    "we well went were west what when where which white who why wide wild will wind window winter with wood word work "
    "world would write year yellow yes yet you young your"
)

WORDS = tuple(_TEXT.split())

SUFFIXES = ("ing", "ed", "er", "ly", "tion", "ness", "able", "'s", "s ", "\n\n")

PUNCTUATION = (",", ",", ".", ".", ";", ":", "!", "?", "\n", " -", '"', "1", "2", "7")

# One token each, although several bytes long.
WHOLE = ("ß", "ö", "日", "…", "🎈")

# Not in the vocabulary: each comes as two to four byte tokens.
BROKEN_UP = ("é", "ñ", "ü", "Ω", "я", "中", "語", "한", "€", "→", "🙂", "🚀", "🌍")
