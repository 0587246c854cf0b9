"""Synthetic sentences with named entities, of presidio-evaluator's templates and personas.

A template is a sentence with fields, such as "My name is {{person}}". A persona is an invented
person of one name set, such as Polish or Japanese, and a name set is a silo. Nobody in it is real.

| entity | fields |
|---|---|
| PER | names of persons |
| LOC | addresses and their parts, cities, countries; parts that stand together are one |
| ORG | companies and organisations |
| MISC | nationalities, and what belongs to one person: phone, e-mail, card, account, licence |

Titles, ages, jobs and dates are written in, and are no entity. A template or a persona of the
training is none of the test.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

Persona = Mapping[str, str]
Sentence = tuple[tuple[str, ...], tuple[str, ...]]  # words, and the tag of each

TYPES: Final = ("PER", "LOC", "ORG", "MISC")
OUTSIDE: Final = "O"
TAGS: Final = (OUTSIDE, *(f"{place}-{kind}" for kind in TYPES for place in "BI"))

PERSONAS: Final = "FakeNameGenerator.com_3000.csv"
COMPANIES: Final = "companies_and_organizations.csv"
NATIONS: Final = "nationalities.csv"
TEMPLATES: Final = "templates.txt"
HELD_OUT: Final = 4  # one template, and one persona, of so many is for the test

_FIELD: Final = re.compile(r"\{\{(\w+)\}\}")
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Draw:
    """Draws of a seed, the same every time. For public data; nothing here is secret."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def below(self, limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=self._generator))

    def one(self, of: Sequence[Any]) -> Any:
        return of[self.below(len(of))]

    def shuffled(self, of: Sequence[Any]) -> list[Any]:
        return [of[place] for place in torch.randperm(len(of), generator=self._generator)]

    def digits(self, pattern: str) -> str:
        """The pattern with a digit for every #."""
        return "".join(str(self.below(10)) if each == "#" else each for each in pattern)


class Source:
    """Templates and personas as the package has them, split once and for all."""

    def __init__(self, folder: Path) -> None:
        draw = Draw(0)
        text = (folder / TEMPLATES).read_text("utf-8", errors="replace")
        lines = (line.replace("\\n", " ").replace("\\", "") for line in text.splitlines())
        templates = draw.shuffled(list(dict.fromkeys(filter(str.strip, lines))))
        self._templates = _parted(templates)
        self._personas: dict[str, tuple[list[Persona], list[Persona]]] = {}
        people = draw.shuffled(_rows(folder / PERSONAS))
        for name in sorted({each["NameSet"] for each in people}):
            self._personas[name] = _parted([each for each in people if each["NameSet"] == name])
        companies = (each["organization"] for each in _rows(folder / COMPANIES, "\t"))
        self._companies = [each for each in companies if each]
        self._nations = _rows(folder / NATIONS)

    @property
    def silos(self) -> list[str]:
        """The name sets, in the order of the alphabet."""
        return list(self._personas)

    def sentences(
        self, silo: str, count: int, *, test: bool, short: Callable[[Sentence], bool]
    ) -> list[Sentence]:
        """So many of one silo that are ``short`` enough; the same ones at every call."""
        draw = Draw(1 + 2 * self.silos.index(silo) + test)
        templates, personas = self._templates[test], self._personas[silo][test]
        found: list[Sentence] = []
        for _ in range(100 * count):  # most are short
            made = self._filled(draw.one(templates), personas, draw)
            if made[0] and short(made):
                found.append(made)
            if len(found) == count:
                return found
        raise ValueError(f"too few sentences of {silo} are short enough")

    def _filled(self, template: str, personas: Sequence[Persona], draw: Draw) -> Sentence:
        """A template with a value in each field. All first values are of the same persona."""
        main, seen, words, tags = draw.one(personas), set(), [], []
        for number, piece in enumerate(_FIELD.split(template)):
            value, kind = piece, ""
            if number % 2:  # a field; what is between two is text
                who = draw.one(personas) if piece in seen else main
                value, kind = self._value(piece, who, draw)
                seen.add(piece)
            new = _WORD.findall(value)
            words += new
            tags += (
                [f"{'I' if place else 'B'}-{kind}" for place in range(len(new))]
                if kind
                else ([OUTSIDE] * len(new))
            )
        return tuple(words), tuple(_joined(words, tags))

    def _value(self, field: str, who: Persona, draw: Draw) -> tuple[str, str]:
        """What stands in a field, and the type of the entity that it is, or none."""
        number, _, street = who["StreetAddress"].partition(" ")
        if not (number.isdigit() and street):
            number, street = draw.digits("##"), who["StreetAddress"]
        nation = draw.one(self._nations)
        base = re.sub("_(female|male|nonbinary)$", "", field)
        match base:
            case "person" | "name":
                return f"{who['GivenName']} {who['Surname']}", "PER"
            case "first_name":
                return who["GivenName"], "PER"
            case "last_name":
                return who["Surname"], "PER"
            case "organization" | "company":
                return draw.one(self._companies), "ORG"
            case "address":
                return f"{who['StreetAddress']}, {who['City']}", "LOC"
            case "street_name":
                return street, "LOC"
            case "building_number":
                return number, "LOC"
            case "secondary_address":
                return draw.digits("Apt. ##"), "LOC"
            case "postcode" | "zipcode":
                return who["ZipCode"] or draw.digits("#####"), "LOC"
            case "city":
                return who["City"], "LOC"
            case "state_abbr":
                return who["State"] or who["City"], "LOC"
            case "country":
                return who["CountryFull"], "LOC"
            case "nationality":
                return nation["nationality"].title(), "MISC"
            case "nation_woman" | "nation_plural":
                return nation[field.removeprefix("nation_")].title(), "MISC"
            case "phone_number":
                return who["TelephoneNumber"], "MISC"
            case "email":
                return who["EmailAddress"], "MISC"
            case "url":
                return f"https://www.{who['Domain']}/", "MISC"
            case "ip_address":
                return ".".join(str(draw.below(256)) for _ in range(4)), "MISC"
            case "credit_card_number":
                return draw.digits("4###############"), "MISC"
            case "iban":
                return who["Country"] + draw.digits("####################"), "MISC"
            case "ssn":
                return draw.digits("###-##-####"), "MISC"
            case "us_driver_license":
                return draw.digits("D#######"), "MISC"
            case "prefix":
                return who["Title"], ""
            case "job":
                return who["Occupation"], ""
            case "age":
                return who["Age"], ""
            case "year":
                return who["Birthday"].rpartition("/")[2], ""
            case "date_of_birth" | "date_time":
                return who["Birthday"], ""
            case "day_of_week":
                return draw.one(_DAYS), ""
        raise ValueError(f"a template has the field {field!r}, which is not known here")


def _parted(of: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """What is trained on and what is tested on."""
    return (
        [each for place, each in enumerate(of) if place % HELD_OUT],
        list(of[::HELD_OUT]),
    )


def _rows(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def _joined(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Tags with each address whole: its parts, and commas between them, are one place."""
    found = list(tags)
    last = None  # the last word of a place, if only a comma came since
    for place, tag in enumerate(tags):
        if tag.endswith("-LOC"):
            if tag == "B-LOC" and last is not None:
                found[last + 1 : place + 1] = ["I-LOC"] * (place - last)
            last = place
        elif words[place] != ",":
            last = None
    return found
