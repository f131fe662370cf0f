"""What a question is searched by: orders on how to answer go, what words stand for comes.

People say how they want their answer written, which is on no page; and they use abbreviations and
the names of measures, while pages spell things out and print the figures that a measure is made
of. Pure functions; English only. A question in another language is searched by as it is.
"""

from __future__ import annotations

import re

_ORDER = re.compile(
    # A sentence of its own, at the end; the same words within a question are part of it.
    # Few spaces: in a long row of them, each would be tried with all that follow.
    r"(?:(?<=[.?!;:\n])|^)\s{0,4}(?:(?:please|directly)\s{1,4})?"
    r"(?:answer|anwser|base|round|write|give|save|format|respond|express|represent|return|"
    r"(?:the|your) answer (?:shall|should|must))\b[^?]*$"
    r"|\be\.g\.,?\s{0,4}[\[(\"'][^?]*$",
    re.IGNORECASE,
)
_FISCAL_YEAR = re.compile(r"\b(?:fy|fiscal(?: year)?)[ '’-]{0,2}(\d{4}|\d{2})\b", re.IGNORECASE)

# A pattern, and the words that pages have for it. The measures are those of any textbook on
# financial statements; on the right is what statements print to compute them from.
_EXPANSIONS = """
capex | capital expenditures purchases of property plant and equipment
capital expenditures? | purchases of property plant and equipment
d&a | depreciation and amortization
ebitda | operating income depreciation and amortization
ebit | operating income
ebt | income before income taxes
pp&e | property plant and equipment
p&l | statements of income operations earnings
income statements?|profit and loss statements? | statements of income operations earnings
cash flow statements? | statements of cash flows
cogs | cost of goods sold cost of sales
sg&a | selling general and administrative expenses
r&d | research and development
eps | earnings per share
fcf|free cash flows? | net cash provided by operating activities capital expenditures
operating cash flow | net cash provided by operating activities
roa|return on (?:(?:total|average) )*assets | net income total assets
roe|return on (?:(?:total|average|common) )*equity | net income total shareholders equity
roi|return on investment | net income total invested
roce|return on capital employed | operating income total assets total current liabilities
roic|return on invested capital | operating income long-term debt total shareholders equity
invested capital | long-term debt total shareholders equity
gross (?:profit )?margins? | gross profit net sales cost of sales
operating (?:profit |income )?margins? | operating income net revenue
(?:net|profit) (?:profit |income )?margins? | net income net revenue
current ratio|working capital | total current assets total current liabilities
quick ratio|acid test | total current assets inventories total current liabilities
cash ratio | cash and cash equivalents total current liabilities
debt[- ]to[- ](?:equity|capital|assets)|debt ratio|leverage ratio | total debt equity assets
capitali[sz]ation ratio|gearing | long-term debt total shareholders equity
interest coverage|times interest earned | operating income interest expense
effective tax (?:rate|ratio) | income tax expense income before income taxes
asset turnover | net revenue total assets
inventory turnover|days inventory(?: outstanding)?|dio | inventories cost of goods sold
receivables? turnover|days sales outstanding|dso | accounts receivable net revenue
payables? turnover|days payables?(?: outstanding)?|dpo | accounts payable cost of goods sold
cash conversion cycle | accounts payable accounts receivable inventories cost of goods sold
(?:dividend )?payout ratio|retention ratio | cash dividends net income
dividend yield | dividends per share stock price
p/e|price[- ](?:to[- ])?earnings | price earnings per share
book value per share | total shareholders equity shares outstanding
agm | annual meeting of shareholders
ceo | chief executive officer
cfo | chief financial officer
coo | chief operating officer
cto | chief technology officer
hr | human resources
ipo | initial public offering
m&a | mergers and acquisitions
q1 | first quarter
q2 | second quarter
q3 | third quarter
q4 | fourth quarter
h1 | first half six months
h2 | second half six months
usd | dollars
eur | euros
gbp | pounds
yoy | year over year
ytd | year to date
usa|u\\.s\\.(?:a\\.)? | united states
uk|u\\.k\\. | united kingdom
eu | european union
faqs? | frequently asked questions
toc | table of contents
qty | quantity
avg | average
max | maximum
min | minimum
temp | temperature
"""


def _compiled() -> tuple[tuple[re.Pattern[str], str], ...]:
    pairs = (line.split(" | ") for line in _EXPANSIONS.strip().splitlines())
    # Not within words, nor within what is joined by "&" and "/".
    return tuple(
        (re.compile(rf"(?<![\w&/])(?:{pattern})(?![\w&/])", re.IGNORECASE), words)
        for pattern, words in pairs
    )


_PATTERNS = _compiled()


def without_orders(question: str) -> str:
    """The question without what it ends on about how to write the answer ("Round to ...")."""
    return _ORDER.sub("", question).strip() or question


def expansions(question: str) -> list[str]:
    """What pages may have in place of the question's abbreviations, measures and fiscal years."""
    found = [words for pattern, words in _PATTERNS if pattern.search(question)]
    for year in _FISCAL_YEAR.findall(question):
        found.append(f"{year if len(year) == 4 else f'20{year}'} fiscal year")
    return list(dict.fromkeys(found))
