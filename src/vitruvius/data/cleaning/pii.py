"""Personal data and secrets, masked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from vitruvius.data.cleaning.finders import FINDERS
from vitruvius.data.cleaning.step import Rewriter, Rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Pii(Rewriter):
    """What identifies a person or opens a door is replaced by a mask; `none` keeps a kind."""

    kind: ClassVar[str] = "pii"
    source: ClassVar[str] = (
        "Penedo et al. 2024 (FineWeb, arXiv:2406.17557): e-mail and public IP addresses; Li et al. 2023 (StarCoder, "
        "arXiv:2305.06161): keys and names of masks; ISO 7812 (Luhn), ISO 13616 (IBAN), E.164 (telephone)"
    )
    counts: ClassVar[Mapping[str, str]] = {
        "secrets": "keys and tokens with well-known prefixes, and private keys",
        "emails": "e-mail addresses, those of example domains not counted",
        "ibans": "bank accounts whose check digits are right",
        "cards": "payment cards whose check digit is right",
        "phones": "telephone numbers in international or North American form",
        "ipv6": "public IPv6 addresses",
        "ipv4": "public IPv4 addresses",
    }

    secrets: str | None = "<KEY>"
    """Mask of keys and tokens."""
    emails: str | None = "<EMAIL>"
    """Mask of e-mail addresses."""
    ibans: str | None = "<IBAN>"
    """Mask of bank accounts."""
    cards: str | None = "<CARD>"
    """Mask of payment cards."""
    phones: str | None = "<PHONE>"
    """Mask of telephone numbers."""
    ipv6: str | None = "<IP_ADDRESS>"
    """Mask of public IPv6 addresses."""
    ipv4: str | None = "<IP_ADDRESS>"
    """Mask of public IPv4 addresses."""

    def rewritten(self, document: Document) -> Rewritten:
        """The text with its masks."""
        text = document.text
        changes: dict[str, int] = {}
        for name, find in FINDERS.items():
            mask: str | None = getattr(self, name)
            if mask is None:
                continue
            parts: list[str] = []
            end = 0
            for start, stop in find(text):
                parts += text[end:start], mask
                end = stop
            if parts:
                changes[name] = len(parts) // 2
                text = "".join(parts) + text[end:]
        if not changes:
            return Rewritten(document=document, changes={})
        return Rewritten(document=replace(document, text=text), changes=changes)
