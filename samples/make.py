"""Draw the sample documents: ``python -m samples.make [--out FOLDER] [NAME ...]``."""

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from samples.documents import (
    annual_report,
    budgets,
    catalogue,
    council_minutes,
    crane_forms,
    espresso_manual,
    project_deck,
    street_trees,
    travel_policy,
    water_handbook,
)

DOCS = Path(__file__).parent / "docs"

DOCUMENTS: Mapping[str, Callable[[Path], None]] = {
    "brackwater_budget_2023.pdf": budgets.make_2023,
    "brackwater_budget_2024.pdf": budgets.make_2024,
    "brackwater_minutes_2024.pdf": council_minutes.make,
    "calder_vale_water_handbook.pdf": water_handbook.make,
    "corvina_duo_2_manual_scan.pdf": espresso_manual.make,
    "crane_inspection_bay_3.pdf": crane_forms.make_bay_3,
    "crane_inspection_bay_5.pdf": crane_forms.make_bay_5,
    "hartmoor_catalogue_2025.pdf": catalogue.make,
    "oakhaven_travel_policy.pdf": travel_policy.make,
    "project_lantern_slides.pdf": project_deck.make,
    "skerrin_line_annual_report_2024.pdf": annual_report.make,
    "street_trees_study.pdf": street_trees.make,
}


def main() -> None:
    """Draw all documents, or those named, into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the PDFs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="file names; all if left out")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unknown = set(options.names) - set(DOCUMENTS)
    if unknown:
        parser.error(f"no such document: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or DOCUMENTS:
        DOCUMENTS[name](options.out / name)
        logging.info("%s  %d KB", name, (options.out / name).stat().st_size // 1024)


if __name__ == "__main__":
    main()
