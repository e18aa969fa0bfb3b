"""Sample tasks answered by a sentence: meeting summary (English) and simplification (German).

Both need words picked from the right places of the prompt, so copying the prompt scores low. Every
sentence holds a name or thing that only its split has.
"""

from random import Random

from cl_lightning.data.sample.bank import Bank, bank

_MOVERS = bank("Reyes, Clark, Okafor, Dunn, Patel, Moore, Silva, Hughes", "Novak, Brandt, Castro, Irwin, Lund")
_THINGS = bank(
    "a bike lane on Elm Street, new lights for Harbor Park, a grant for the youth choir, repairs at Mill Bridge, "
    "a permit for the night market, longer hours at Oak Library, a lease for the food bank, trees along Canal Road",
    "a fence around Pine School, new seats for Union Hall, a loan for the boat club, paving on Maple Avenue, "
    "a licence for the street fair, cleaner buses on Hill Route",
)
_OUTCOMES: dict[str, Bank] = {
    "Approved": bank(
        "{name}, your motion passes.|All ayes, {name}, so it carries.",
        "It passes with all ayes, {name}.",
        "|",
    ),
    "Rejected": bank(
        "{name}, your motion fails.|All nays, {name}, so it is lost.",
        "It fails with all nays, {name}.",
        "|",
    ),
    "Postponed": bank(
        "{name}, your motion is tabled until May.|We delay it, {name}, until the next meeting.",
        "It is tabled, {name}, until the next session.",
        "|",
    ),
}
_CALLS = bank(
    "Clerk, please read the item of {name}.|The floor is yours, {name}.",
    "We now hear {name}.|Next speaker is {name}.",
    "|",
)
_MOTIONS = bank("I move {thing}.|I ask the council for {thing}.", "I request {thing}.|My motion is {thing}.", "|")

_TOWNS = bank(
    "Arlen, Bergdorf, Calden, Dornach, Eschen, Falkau, Gossau, Hallwil",
    "Rietberg, Seewen, Talheim, Urdorf, Wildau",
)
_OBJECTS = bank(
    "das Kino, das Hotel, das Museum, das Theater, das Schloss, das Bad",
    "das Stadion, das Archiv, das Kloster, das Labor",
)
_AGENTS = bank("Die Gemeinde, Der Verein, Die Firma, Der Kanton", "Die Stiftung, Der Verband, Die Bank")
_ASIDES = bank(
    "wie die Behörden mitteilten, wie am Montag bekannt wurde, nach langen Verhandlungen",
    "wie Medien berichteten, wie gestern zu erfahren war, nach zähem Ringen",
)
_PLACES = bank("am Seeufer, beim Bahnhof, in der Altstadt", "am Waldrand, beim Friedhof, im Zentrum")
_PLAIN = {
    "hat {object} käuflich erworben": "kauft {object}",
    "hat {object} umfassend instand gestellt": "repariert {object}",
    "hat {object} vorübergehend geschlossen": "schliesst {object}",
    "hat {object} feierlich eingeweiht": "öffnet {object}",
}


def meeting_bank(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a meeting transcript and its one-sentence outcome."""
    outcome = tuple(_OUTCOMES)[index % len(_OUTCOMES)]
    name, thing = rng.choice(_MOVERS[split]), rng.choice(_THINGS[split])
    lines = (
        rng.choice(_CALLS[split]).format(name=name),
        rng.choice(_MOTIONS[split]).format(thing=thing),
        rng.choice(_OUTCOMES[outcome][split]).format(name=name),
    )
    prompt = f"Write a summary of the meeting.\nTranscript:\n{' '.join(lines)}\nSummary:"
    return prompt, f"{outcome}: {thing}, moved by {name}."


def zwanzig_minuten(rng: Random, split: str, index: int) -> tuple[str, str]:
    """Make a German news sentence and its simple form."""
    hard, plain = tuple(_PLAIN.items())[index % len(_PLAIN)]
    agent, town, thing = rng.choice(_AGENTS[split]), rng.choice(_TOWNS[split]), rng.choice(_OBJECTS[split])
    thing_there = f"{thing} {rng.choice(_PLACES[split])}"
    text = f"{agent} in {town} {hard.format(object=thing_there)}, {rng.choice(_ASIDES[split])}."
    return f"Simplify in German.\nParagraph:\n{text}\nSimplification:", f"{agent} {plain.format(object=thing)}."
