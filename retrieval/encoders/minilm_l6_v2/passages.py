"""Passages to measure the exported model on: short, long, tables, numbers, scripts, damaged text.

Written for this purpose, and put together by a seeded generator, so every run gives the same texts.
"""

from __future__ import annotations

import random

_SENTENCES = (
    "The ferry leaves the northern pier at six, unless fog closes the harbour first.",
    "Net revenue rose by {n} percent to {m} million euros, driven by higher prices abroad.",
    "Apply the torque wrench to bolt {n} before the cover plate is lowered into its seat.",
    "Nobody had expected the glacier to retreat {m} metres within a single summer.",
    "Patients in the second arm received {n} mg twice daily for {m} weeks.",
    "In the year {y}, the parish counted {n} households and {m} head of cattle.",
    "We thank the reviewers, whose remarks made the third section far clearer.",
    "A lease that runs longer than {n} months must be filed with the county clerk.",
    "Stir the saffron into warm milk, then fold it under the rice with a wooden spoon.",
    "The compiler rejects the program because the borrowed value does not live long enough.",
    "Her violin, built in {y}, had spent two wars wrapped in oilcloth under a floor.",
    "Turbine {n} was stopped when the bearing temperature passed {m} degrees Celsius.",
    "Section {n}.{d} of the agreement shall survive termination by either party.",
    "Migrating cranes rest on the flooded meadows and leave before the first frost.",
    "The committee meets every second Tuesday; minutes are published within {n} days.",
    "Voltage across the capacitor decays exponentially with a time constant of {n} ms.",
    "If the indicator blinks red {d} times, unplug the device and call the service desk.",
    "Cash and cash equivalents at the end of the period amounted to ${m},{n}00.",
    "Students who miss more than {d} laboratory sessions cannot sit the examination.",
    "The painter scraped away the sky twice before she was content with its grey.",
    "Rainwater is led through a bed of gravel and reeds before it reaches the pond.",
    "Our model reaches an F1 score of 0.{n} on the held-out split, up from 0.{m}.",
    "Under the microscope the grain boundaries appear as thin dark lines.",
    "The court held that silence alone does not amount to acceptance of an offer.",
    "Trains on line {n} are diverted via the old freight station until {y}.",
    "Goalkeeper and captain, he played {m} matches without a single red card.",
    "Do not store the concentrate above {n} °C or near an open flame.",
    "Each node keeps a log of its neighbours' heartbeats and votes when one falls silent.",
    "Between {y} and today the number of subscribers has grown by a factor of {d}.",
    "The museum's east wing shows looms, spindles and a reconstructed dye house.",
    "Import duties on machine parts were lowered to {d}.{d} % by the treaty.",
    "Please return the signed form, together with two copies of your passport.",
    "Seismic stations recorded a magnitude {d}.{d} shock off the coast at dawn.",
    "Honey from linden blossom sets slowly and tastes faintly of mint.",
    "Inflation expectations remained anchored although energy prices doubled.",
    "The satellite's antenna unfolded on the third attempt, to cheers in the control room.",
    "Warranty claims must reach the dealer no later than {n} days after delivery.",
    "Sleep, light and regular meals set the body's clock more firmly than any pill.",
    "Every beam was numbered with a chisel so that the barn could be moved and rebuilt.",
    "Pixels outside the mask are ignored when the loss is averaged over the batch.",
)
_OTHER = (
    "Die Brücke über den Fluß wurde {y} gesperrt, weil Träger Nr. {n} Risse zeigte.",
    "Le comité s'est réuni à l'hôtel de ville ; {n} élus ont voté contre le projet.",
    "El río creció {n} centímetros en una noche y los niños no fueron a la escuela.",
    "Översikten visar att försäljningen ökade med {n} % i Malmö och Göteborg.",
    "Łódź i Kraków: {n} nowych połączeń kolejowych od grudnia {y} roku.",
    "Η έκθεση άνοιξε στις {n} Μαρτίου και τη είδαν {m} επισκέπτες.",
    "В {y} году на станции работало {n} инженеров и {d} метеорологов.",
    "会议将于{y}年{d}月举行，共有{n}名代表参加。",
    "この装置は{n}ボルトで動作し、重さは{d}キログラムです。",
    "보고서에 따르면 매출은 {n}퍼센트 증가했다.",
    "تأسست المكتبة عام {y} وتضم {m} مخطوطة.",
    "“Smart quotes” — dashes – ellipses… and ½ cup, 5 µm, 20 °C, €{n}, №{d}, x² ≤ {m}.",
    "naïve façade, coöperate, Ångström, smørrebrød, jalapeño, Dvořák, São Tomé; ﬁnal ﬂow oﬃce",
    "∑ (xᵢ − μ)² / n → σ² ≈ {d}.{n}; α = 0.0{d}, β ∈ [0, 1], ∇f(x) ≠ 0 ∀ x ∈ ℝ",
    "🚢 departs {d}:{n} ✔ on time ✘ cancelled ★★★☆☆ ({m} ratings) 👍🏽",
)
_SHORT = (
    "Yes.",
    "7",
    "Q4",
    "Figure 3",
    "n/a",
    "…",
    "TOTAL",
    "Page 12 of 90",
    "Who signed the lease?",
    "Table of contents",
    "ISBN 978-0-000-00000-2",
    "42 %",
    "REVENUE BY REGION",
    "see overleaf",
    "?!",
    "$1,204.50",
    "Annex B",
    "e.g. copper",
    "http://example.org/a?b=1&c=2",
    "someone@example.org",
    "How much did the second phase cost in total?",
    "turbine bearing temperature limit",
    "v2.0.1-rc3",
    "What does the red light mean",
    "émigré",
    "北京",
    "photosynthesis",
    "the",
    "Mr. O'Neil-Smith",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
)
_NOUNS = (
    "Steel",
    "Paper",
    "Grain",
    "Fuel",
    "Glass",
    "Labour",
    "Freight",
    "Energy",
    "Rent",
    "Training",
    "North",
    "South",
    "Harbour",
    "Depot",
    "Pump",
    "Valve",
    "Sensor",
    "Gasket",
    "Interest",
    "Tax",
)


def passages() -> list[str]:
    """The 200 passages, from one word to about 256 word pieces; always the same."""
    rng = random.Random(21)  # noqa: S311 - no secret, only variety
    texts = list(_SHORT)
    texts += [_filled(rng, sentence) for sentence in _OTHER]
    texts += [_prose(rng, rng.randint(1, 4)) for _ in range(30)]
    texts += [_prose(rng, rng.randint(4, 14)) for _ in range(45)]
    texts += [_table(rng, rng.randint(3, 14)) for _ in range(20)]
    texts += [_prose(rng, rng.randint(2, 8)).upper() for _ in range(8)]
    texts += [_heading(rng) + "\n\n" + _prose(rng, rng.randint(2, 9)) for _ in range(14)]
    texts += [_damaged(rng, _prose(rng, rng.randint(2, 9))) for _ in range(14)]
    texts += [" ".join(_filled(rng, s) for s in rng.sample(_OTHER, 3)) for _ in range(8)]
    texts += [_numbers(rng, rng.randint(5, 60)) for _ in range(8)]
    texts += [_listing(rng, rng.randint(3, 12)) for _ in range(8)]
    return texts


def _filled(rng: random.Random, sentence: str) -> str:
    return sentence.format(
        n=rng.randint(10, 99),
        m=rng.randint(100, 999),
        d=rng.randint(1, 9),
        y=rng.randint(1790, 2030),
    )


def _prose(rng: random.Random, sentences: int) -> str:
    return " ".join(_filled(rng, s) for s in rng.sample(_SENTENCES, sentences))


def _heading(rng: random.Random) -> str:
    words = rng.sample(_NOUNS, 3)
    return f"{rng.randint(1, 9)}.{rng.randint(1, 9)} {words[0]} and {words[1].lower()}: {words[2]}"


def _table(rng: random.Random, rows: int) -> str:
    years = [str(rng.randint(1990, 2029)) for _ in range(3)]
    lines = ["Item | " + " | ".join(years)]
    for _ in range(rows):
        cells = (f"{rng.uniform(-900, 9000):,.1f}" for _ in years)
        lines.append(f"{rng.choice(_NOUNS)} {rng.choice(_NOUNS).lower()} | " + " | ".join(cells))
    return "\n".join(lines)


def _numbers(rng: random.Random, count: int) -> str:
    return " ".join(f"{rng.uniform(-1e4, 1e6):.{rng.randint(0, 4)}f}" for _ in range(count))


def _damaged(rng: random.Random, text: str) -> str:
    """Text as a poor scan gives it: letters confused, words cut by a hyphen at line ends."""
    confused = {"l": "1", "o": "0", "e": "c", "m": "rn", "s": "5", "h": "li"}
    letters = [confused.get(c, c) if rng.random() < 0.12 else c for c in text]
    return "".join("-\n" if c.isalpha() and rng.random() < 0.01 else c for c in letters)


def _listing(rng: random.Random, lines: int) -> str:
    kinds = (
        "{i}) {a} {b}: replace by {y}",
        "- {a}_{b}[{i}] = {n}.0;  // {b}",
        "{i}.\t{a} / {b} ........ {n}",
    )
    kind = rng.choice(kinds)
    return "\n".join(
        kind.format(
            i=i + 1,
            a=rng.choice(_NOUNS),
            b=rng.choice(_NOUNS).lower(),
            n=rng.randint(1, 999),
            y=rng.randint(2001, 2030),
        )
        for i in range(lines)
    )
