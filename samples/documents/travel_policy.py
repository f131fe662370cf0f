"""Travel policy of the food company Oakhaven Foods, version 5.0."""

from pathlib import Path

from samples import charts
from samples.draw import rgb
from samples.flow import Flow, Look

LOOK = Look(
    running="Oakhaven Foods",
    foot="Travel policy 5.0, valid from 1 February 2025",
    accent=rgb("2f6b3c"),
    tint=rgb("e9f2ea"),
    body="helv",
    bold="hebo",
    italic="heit",
    size=10,
    leading=1.55,
    margin=(84, 84, 84, 76),
)


def _title(flow: Flow) -> None:
    canvas = flow.canvas
    canvas.rect(0, 0, LOOK.width, 250, fill=LOOK.accent)
    for nth in range(9):
        canvas.circle((330 + 34 * nth, 60 + 13 * (nth % 4)), 26, fill=rgb("3c7f4a"))
    canvas.text(84, 150, "Travel policy", "hebo", 38, rgb("ffffff"))
    canvas.text(84, 178, "How we travel, what is paid and whom to ring", "helv", 14, LOOK.tint)
    canvas.text(84, 222, "Version 5.0   |   Owner: personnel department", "helv", 9.5, LOOK.tint)
    flow.y = 282
    flow.table(
        ["Chapter", "You will find there"],
        [
            ["Purpose and scope", "Who is meant, and the policy in five sentences"],
            ["Before you book", "Approval, limits of cost, the portal"],
            ["Trains, flights and cars", "Classes, own cars and hire cars"],
            ["Hotels and meals", "Limits for hotels, allowances for meals"],
            ["Long stays and family", "Postings, children, private days"],
            ["Health and safety on the way", "Emergencies, illness, rest"],
            ["Paying and claiming", "Company card, claims, what is paid"],
            ["Carbon budget", "Budgets of the departments"],
            ["Questions and changes", "Owner and versions"],
        ],
    )
    flow.break_page()


def _carbon(flow: Flow) -> None:
    trips = {
        "Purchasing": 164.0,
        "Sales": 88,
        "Engineering": 61,
        "Quality": 34,
        "Management": 27,
        "Personnel": 12,
        "Others": 19,
    }
    flow.figure(
        190,
        lambda canvas, box: charts.rows(canvas, box, trips, LOOK.accent),
        "Emissions of business travel in 2024 by department, in tonnes of carbon dioxide",
    )


def make(path: Path) -> None:
    """Draw the document and save it as ``path``."""
    flow = Flow(LOOK)
    flow.pour("travel_policy.md", {"title": _title, "carbon": _carbon})
    flow.finish(path, "Oakhaven Foods: travel policy 5.0", "Oakhaven Foods")
