"""Catalogue 2025 of the outdoor maker Hartmoor: one sheet a product and tables to compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from samples.charts import Box
from samples.covers import cover, mix
from samples.draw import WHITE, Canvas, Color, rgb
from samples.flow import Block, Column, Flow, Look

LOOK = Look(
    running="Hartmoor",
    foot="Catalogue 2025",
    accent=rgb("a4431f"),
    tint=rgb("f8ece4"),
    body="helv",
    bold="hebo",
    italic="heit",
    size=10.4,
    leading=1.52,
    width=540,
    height=640,
    margin=(62, 76, 62, 64),
)
CLAY, PINE, SKY, SAND, COAL = (
    rgb("a4431f"),
    rgb("3f6b52"),
    rgb("5f8fae"),
    rgb("d9b27c"),
    rgb("333333"),
)


Drawing: TypeAlias = Callable[[Canvas, Box, Color], None]


@dataclass(frozen=True, slots=True)
class Product:
    """One product: drawing, words and the rows of its table."""

    draw: Drawing
    name: str
    number: str
    text: str
    color: Color
    specs: Mapping[str, str]


def _tent(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 16
    canvas.line((box.x0 + 30, base), (box.x1 - 30, base), PINE, 3)
    canvas.path(
        [(middle - 140, base), (middle - 30, box.y0 + 14), (middle + 150, base)],
        stroke=COAL,
        fill=color,
        closed=True,
    )
    canvas.path(
        [(middle - 70, base), (middle - 30, box.y0 + 14), (middle + 10, base)],
        stroke=COAL,
        fill=mix(color, WHITE, 0.55),
        closed=True,
    )
    for x, to in ((-140, -176), (150, 186)):
        canvas.line((middle + x * 0.72, base - 30), (middle + to, base + 6), COAL)


def _bag(canvas: Canvas, box: Box, color: Color) -> None:
    x0, x1, y0, y1 = box.x0 + 70, box.x1 - 70, box.y0 + 26, box.y1 - 22
    canvas.path(
        [(x0, y0 + 8), (x1 - 60, y0), (x1, y0 + 20), (x1, y1 - 20), (x1 - 60, y1), (x0, y1 - 8)],
        stroke=COAL,
        fill=color,
        closed=True,
    )
    for nth in range(1, 9):
        x = x0 + (x1 - x0) * nth / 10
        canvas.line((x, y0 + 5), (x, y1 - 5), mix(color, WHITE, 0.5), 1.2)
    canvas.circle((x1 - 26, (y0 + y1) / 2), 22, fill=mix(color, WHITE, 0.7), stroke=COAL)


def _stove(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 12
    canvas.rect(middle - 34, base - 52, middle + 34, base, fill=color, stroke=COAL, radius=0.2)
    canvas.rect(middle - 8, base - 74, middle + 8, base - 52, fill=COAL)
    canvas.rect(middle - 48, base - 80, middle + 48, base - 74, fill=SAND, stroke=COAL)
    canvas.rect(middle - 40, base - 124, middle + 40, base - 80, fill=rgb("c9cdd1"), stroke=COAL)
    canvas.line((middle + 40, base - 108), (middle + 84, base - 112), COAL, 4)


def _pack(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 8
    canvas.rect(middle - 46, box.y0 + 22, middle + 46, base, fill=color, stroke=COAL, radius=0.25)
    canvas.rect(
        middle - 50,
        box.y0 + 8,
        middle + 50,
        box.y0 + 40,
        fill=mix(color, COAL, 0.35),
        stroke=COAL,
        radius=0.4,
    )
    canvas.rect(
        middle - 32,
        base - 52,
        middle + 32,
        base - 12,
        fill=mix(color, WHITE, 0.3),
        stroke=COAL,
        radius=0.2,
    )
    for side in (-1, 1):
        canvas.line((middle + 46 * side, base - 70), (middle + 66 * side, base - 20), COAL, 3)


def _lamp(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 10
    canvas.circle((middle, base - 58), 52, fill=rgb("fbe7b4"))
    canvas.rect(
        middle - 26, base - 92, middle + 26, base - 24, fill=rgb("fff6dc"), stroke=COAL, radius=0.2
    )
    canvas.rect(middle - 32, base - 24, middle + 32, base, fill=color, stroke=COAL, radius=0.2)
    canvas.rect(middle - 20, base - 106, middle + 20, base - 92, fill=color, stroke=COAL)


def _mat(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 22
    canvas.path(
        [
            (middle - 130, base),
            (middle - 90, base - 54),
            (middle + 150, base - 54),
            (middle + 110, base),
        ],
        stroke=COAL,
        fill=color,
        closed=True,
    )
    canvas.circle((middle + 128, base - 62), 32, fill=mix(color, WHITE, 0.3), stroke=COAL)
    for radius in (22, 12, 4):
        canvas.circle((middle + 128, base - 62), radius, stroke=COAL)


def _pot(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 16
    canvas.path(
        [(middle + 48, base - 60), (middle + 82, base - 88), (middle + 48, base - 86)],
        stroke=COAL,
        fill=color,
        closed=True,
    )
    canvas.rect(middle - 50, base - 90, middle + 50, base, fill=color, stroke=COAL, radius=0.12)
    canvas.rect(middle - 54, base - 100, middle + 54, base - 90, fill=COAL, radius=0.3)
    canvas.line((middle - 50, base - 70), (middle - 104, base - 80), COAL, 5)


def _head_lamp(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 14
    canvas.circle((middle, base - 56), 52, stroke=CLAY, width=9)
    canvas.rect(middle - 34, base - 40, middle + 34, base, fill=color, stroke=COAL, radius=0.3)
    canvas.circle((middle, base - 20), 13, fill=rgb("fbe7b4"), stroke=COAL)


def _bottle(canvas: Canvas, box: Box, color: Color) -> None:
    middle, base = (box.x0 + box.x1) / 2, box.y1 - 10
    canvas.rect(
        middle - 30,
        base - 84,
        middle + 30,
        base,
        fill=mix(color, WHITE, 0.5),
        stroke=COAL,
        radius=0.35,
    )
    canvas.rect(middle - 28, base - 44, middle + 28, base - 6, fill=color, radius=0.35)
    canvas.rect(middle - 15, base - 112, middle + 15, base - 82, fill=PINE, stroke=COAL)
    canvas.rect(middle - 6, base - 122, middle + 6, base - 112, fill=COAL)


TENTS = (
    Product(
        _tent,
        "Barn 1",
        "HT-101",
        "The tent we began with, for one person and a wet dog. It has not "
        "changed since 1988 except for the poles, which no longer splinter. It goes up in the "
        "dark, and if you know it, in gloves. There is no window, and nobody has missed it.",
        SAND,
        {
            "Sleeps": "1",
            "Weight": "1,640 g",
            "Floor": "215 x 90 cm",
            "Height inside": "96 cm",
            "Poles": "1, aluminium",
            "Packed size": "42 x 14 cm",
            "Price": "2,190 crowns",
        },
    ),
    Product(
        _tent,
        "Fellwind 2",
        "HT-212",
        "New this season: a tunnel for two who do not want to carry a "
        "house. The outer and inner pitch together, so that the inner stays dry in rain. Two "
        "doors mean that nobody climbs over anybody. We tested it for three weeks on Gannet "
        "Holm, where the sheep ate one guy line and the wind took nothing.",
        PINE,
        {
            "Sleeps": "2",
            "Weight": "1,985 g",
            "Floor": "220 x 130 cm",
            "Height inside": "108 cm",
            "Poles": "2, aluminium",
            "Packed size": "46 x 16 cm",
            "Price": "4,350 crowns",
        },
    ),
    Product(
        _tent,
        "Fellwind 3",
        "HT-213",
        "The larger sister of the two-person tent, with a porch in "
        "which three packs and a kitchen find room. The third person sleeps well only if the "
        "other two are friends. The ventilators can be closed from within.",
        SKY,
        {
            "Sleeps": "3",
            "Weight": "2,740 g",
            "Floor": "225 x 180 cm",
            "Height inside": "115 cm",
            "Poles": "3, aluminium",
            "Packed size": "50 x 18 cm",
            "Price": "5,480 crowns",
        },
    ),
    Product(
        _tent,
        "Drover",
        "HT-305",
        "A base tent for groups and families. The walls are steep, the "
        "bedroom hangs free and can be left at home. It weighs what it weighs, but it stood "
        "through storm Ysolde in the yard behind our shop and the tea inside stayed in its "
        "cups.",
        CLAY,
        {
            "Sleeps": "5",
            "Weight": "8,900 g",
            "Floor": "310 x 260 cm",
            "Height inside": "198 cm",
            "Poles": "5, steel",
            "Packed size": "72 x 28 cm",
            "Price": "7,900 crowns",
        },
    ),
)
SLEEP = (
    Product(
        _bag,
        "Linnet",
        "HS-110",
        "A summer bag of recycled fibre that opens out into a blanket. It "
        "dries in an afternoon and forgives being stuffed into a bin bag. Two of them zip "
        "together.",
        SKY,
        {
            "Comfort": "9 degrees",
            "Weight": "780 g",
            "Filling": "Recycled fibre",
            "Length": "205 cm",
            "Packed size": "26 x 17 cm",
            "Price": "890 crowns",
        },
    ),
    Product(
        _bag,
        "Ptarmigan",
        "HS-240",
        "Our bag for three seasons, filled with washed down from "
        "farms that we visit. The foot is cut wide, since cold feet are mostly squeezed feet. "
        "The hood closes with one hand.",
        PINE,
        {
            "Comfort": "-3 degrees",
            "Weight": "1,060 g",
            "Filling": "Duck down, 650",
            "Length": "210 cm",
            "Packed size": "32 x 19 cm",
            "Price": "3,150 crowns",
        },
    ),
    Product(
        _bag,
        "Snowfinch",
        "HS-360",
        "For winter and for those who are always cold. A collar keeps "
        "the warmth where it belongs, and a pocket within keeps your boots' liners from "
        "freezing.",
        CLAY,
        {
            "Comfort": "-17 degrees",
            "Weight": "1,720 g",
            "Filling": "Goose down, 750",
            "Length": "215 cm",
            "Packed size": "40 x 23 cm",
            "Price": "5,690 crowns",
        },
    ),
    Product(
        _mat,
        "Moss mat",
        "HS-405",
        "A mat that fills itself while you look for the coffee. Eight "
        "breaths make it firm. The patch is sewn to the bag, because loose patches are always "
        "at home.",
        SAND,
        {
            "Thickness": "5 cm",
            "Weight": "640 g",
            "Warmth": "R 3.9",
            "Length": "183 cm",
            "Packed size": "28 x 15 cm",
            "Price": "1,040 crowns",
        },
    ),
)
STOVES = (
    Product(
        _stove,
        "Ember Trail",
        "HC-120",
        "A new stove that screws onto a gas can. The burner sits deep "
        "in a ring that keeps the wind out. With it half a litre of water boils in 2 minutes "
        "and 25 seconds, measured in our yard at ten degrees with a light breeze.",
        CLAY,
        {
            "Fuel": "Gas",
            "Weight": "98 g",
            "Power": "2,900 W",
            "Lighter": "Piezo, can be replaced",
            "Pot": "Up to 20 cm",
            "Price": "640 crowns",
        },
    ),
    Product(
        _stove,
        "Ember Base",
        "HC-140",
        "The stove with legs and a hose, for large pots and soft "
        "ground. It burns gas upside down in winter, when other stoves sulk. The legs fold "
        "around the burner and no longer pinch.",
        COAL,
        {
            "Fuel": "Gas",
            "Weight": "265 g",
            "Power": "3,400 W",
            "Lighter": "None",
            "Pot": "Up to 28 cm",
            "Price": "980 crowns",
        },
    ),
    Product(
        _stove,
        "Peat",
        "HC-170",
        "A spirit burner with a windshield and a pot in one. Slow, silent "
        "and impossible to break. The flame cannot be seen in sunlight; put your hand above "
        "it, not in it.",
        SKY,
        {
            "Fuel": "Spirit",
            "Weight": "410 g with pot",
            "Power": "1,200 W",
            "Lighter": "None",
            "Pot": "1.1 litres, included",
            "Price": "720 crowns",
        },
    ),
    Product(
        _pot,
        "Kettle pot 0.9",
        "HC-210",
        "A pot with a spout and a lid that stays on when you pour. "
        "The gas can and the small stove find room inside. The handle is long enough for "
        "frozen fingers.",
        SAND,
        {
            "Volume": "0.9 litres",
            "Weight": "172 g",
            "Material": "Hard aluminium",
            "Handle": "Folding, silicone",
            "Fits": "Ember Trail and can",
            "Price": "390 crowns",
        },
    ),
)
PACKS = (
    Product(
        _pack,
        "Tor 22",
        "HP-122",
        "A day pack of one piece of cloth, with hardly any seams. The back "
        "is a mat on which you can sit. It takes a folder of papers as gladly as a rope.",
        SKY,
        {
            "Volume": "22 litres",
            "Weight": "690 g",
            "Load": "Up to 8 kg",
            "Sizes": "One",
            "Cloth": "Nylon 210",
            "Price": "1,090 crowns",
        },
    ),
    Product(
        _pack,
        "Tor 45",
        "HP-145",
        "The pack for huts and for light tents. The lid comes off and "
        "becomes a hip bag. Straps at the side hold a tent, poles or, as one customer has "
        "shown us, a cello bow.",
        PINE,
        {
            "Volume": "45 litres",
            "Weight": "1,380 g",
            "Load": "Up to 14 kg",
            "Sizes": "S, M, L",
            "Cloth": "Nylon 420",
            "Price": "2,280 crowns",
        },
    ),
    Product(
        _pack,
        "Carter 70",
        "HP-170",
        "For two weeks with everything. The frame of ash wood gives way "
        "a little at each step, which backs like. It can be mended with a knife and a bit of "
        "string, though we would rather do it for you.",
        CLAY,
        {
            "Volume": "70 litres",
            "Weight": "2,450 g",
            "Load": "Up to 26 kg",
            "Sizes": "M, L",
            "Cloth": "Waxed cotton",
            "Price": "3,940 crowns",
        },
    ),
)
LAMPS = (
    Product(
        _lamp,
        "Glow-worm",
        "HL-115",
        "A lamp for the tent. It has one button and three levels: read, "
        "cook, and find the bear. The battery is an ordinary one that you can buy in every "
        "village shop.",
        SAND,
        {
            "Light": "180 lumens",
            "Weight": "118 g",
            "Runs": "9 to 96 hours",
            "Battery": "1 x 18650",
            "Proof against": "Rain",
            "Price": "420 crowns",
        },
    ),
    Product(
        _head_lamp,
        "Pit lamp",
        "HL-130",
        "A head lamp with a warm light that does not blind the person "
        "you talk to. The band can be washed. The red light comes first, so your night "
        "vision survives the search for the other button.",
        COAL,
        {
            "Light": "350 lumens",
            "Weight": "86 g",
            "Runs": "6 to 80 hours",
            "Battery": "Built in, USB",
            "Proof against": "Immersion to 1 m",
            "Price": "560 crowns",
        },
    ),
    Product(
        _bottle,
        "Tarn bottle filter",
        "HL-210",
        "New: a bottle with a filter in its neck. It takes out "
        "bacteria and mud, but neither salt nor fertiliser, so drink from above the cows. "
        "Shake it clean; after 1,000 litres the cartridge is used up and lets no more water "
        "through.",
        SKY,
        {
            "Volume": "0.75 litres",
            "Weight": "104 g",
            "Flow": "1.1 litres a minute",
            "Cartridge": "1,000 litres",
            "Bottle": "Soft, food safe",
            "Price": "520 crowns",
        },
    ),
)


def _cover(flow: Flow) -> None:
    def moor(canvas: Canvas, box: Box) -> None:
        canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=rgb("f3d9b8"))
        canvas.circle((120, 92), 40, fill=rgb("fbf0d9"))
        ground = [(box.x1, box.y1), (box.x0, box.y1)]
        canvas.path(
            [(0, 250), (150, 130), (260, 225), (380, 95), (540, 240), *ground],
            stroke=None,
            fill=rgb("8f9f86"),
            closed=True,
        )
        canvas.path(
            [(0, 300), (180, 258), (380, 292), (540, 250), *ground],
            stroke=None,
            fill=PINE,
            closed=True,
        )
        _tent(canvas, Box(130, 206, 410, 330), CLAY)

    cover(
        flow,
        "Hartmoor",
        "Tents, bags, stoves and packs: the catalogue for 2025",
        ["Made to be mended"],
        moor,
    )


def _sheets(flow: Flow, products: tuple[Product, ...]) -> None:
    """One sheet a product, then a table in which they can be compared."""
    for product in products:
        flow.room(330)
        flow.section(f"{product.name}   {product.number}")
        flow.paragraph(product.text)

        def picture(canvas: Canvas, box: Box, product: Product = product) -> None:
            canvas.rect(box.x0, box.y0, box.x1, box.y1, fill=LOOK.tint)
            product.draw(canvas, box, product.color)

        flow.figure(136, picture)
        flow.table(
            [product.name, product.number], list(product.specs.items()), [Column(40), Column(60)]
        )
    keys = dict.fromkeys(key for product in products for key in product.specs)
    flow.heading("Compared")
    flow.table(
        ["", *[product.name for product in products]],
        [
            [key, *[product.specs.get(key, "-") for product in products]]
            for key in keys
            if key != "Weight"
        ],
        [Column(22), *[Column(26)] * len(products)],
    )


BLOCKS: dict[str, Block] = {
    "cover": _cover,
    "contents": lambda flow: flow.contents(levels=2),
    "tents": partial(_sheets, products=TENTS),
    "sleep": partial(_sheets, products=SLEEP),
    "stoves": partial(_sheets, products=STOVES),
    "packs": partial(_sheets, products=PACKS),
    "lamps": partial(_sheets, products=LAMPS),
}


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("catalogue.md", BLOCKS)
    flow.finish(path, "Hartmoor: catalogue 2025", "Hartmoor")
