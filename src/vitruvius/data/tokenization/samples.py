"""Texts that are on every machine, to measure tokenizers with where the user names none. They are small, and say so."""

from __future__ import annotations

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = 1_000_000
"""Of each sample, about."""

DECLARATION: dict[str, str] = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen "
    "begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "Portuguese": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de "
    "consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni "
    "rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve "
    "birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. Mọi con người đều "
    "được tạo hóa ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình anh em.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью "
    "и должны поступать в отношении друг друга в духе братства.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι "
    "με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا "
    "بروح الإخاء.",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם "
    "לנהוג איש ברעהו ברוח של אחווה.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता "
    "प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と"
    "良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 "
    "부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
}
"""Article 1 of the Universal Declaration of Human Rights (1948; its text is free to use): one sentence or two, with the
same meaning in each language, so that tokens compare directly.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Texts of one sort."""

    name: str
    """Its name in the report."""
    source: str
    """What it is and where it is from, in words."""
    texts: tuple[str, ...]
    """The documents."""
    whole: bool
    """Whether these are all documents of the source, not only the first of them."""


def built_in() -> Iterator[Domain]:
    """The domains of every machine; one whose files are not there is left out."""
    from vitruvius.data.reading.corpora import standard_library_sources

    python = _texts(standard_library_sources(_BYTES))
    yield Domain(name="Python", source="Python's standard library, a sample of its files", texts=python, whole=False)
    headers = sorted(Path(sysconfig.get_path("include")).glob("**/*.h"))
    if headers:
        yield Domain(name="C", source="the headers of Python's C interface", texts=_texts(headers), whole=False)
    topics = _topics()
    if topics:
        yield Domain(
            name="English docs",
            source="Python's language reference (the help topics), English with examples",
            texts=topics,
            whole=True,
        )
    yield Domain(
        name="numbers", source="made here: integers, decimals, dates, hexadecimal", texts=_numbers(), whole=True
    )
    for language, text in DECLARATION.items():
        yield Domain(
            name=language,
            source="Article 1 of the Universal Declaration of Human Rights: a sentence or two, no more",
            texts=(text,),
            whole=True,
        )


def _texts(files: list[Path]) -> tuple[str, ...]:
    found: list[str] = []
    size = 0
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        found.append(text)
        size += len(text)
        if size > _BYTES:
            break
    return tuple(found)


def _topics() -> tuple[str, ...]:
    """The help topics, which some distributions leave out of Python."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ()
    return tuple(text for _, text in sorted(topics.items()))


def _numbers() -> tuple[str, ...]:
    draw = random.Random(0)  # noqa: S311 (the same numbers on every machine)
    lines: list[str] = []
    for _ in range(2_000):
        digits = draw.randrange(1, 13)
        lines.append(
            f"{draw.randrange(10**digits)} {draw.randrange(10**6) / 1000:.3f} {draw.randrange(1900, 2100)}-"
            f"{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02} {draw.randrange(2**32):#010x} "
            f"{draw.randrange(10**9):,}"
        )
    return tuple("\n".join(lines[start : start + 100]) for start in range(0, len(lines), 100))
