"""Documents in other languages go, by the model that is installed and no other."""

from __future__ import annotations

import socket

import pytest

from vitruvius.data.cleaning import language
from vitruvius.data.cleaning.language import Language, identified
from vitruvius.errors import DataError

TEXTS = {
    "en": "The river rose in the night, and nobody in the village had seen it come.",
    "de": "Der Fluss stieg in der Nacht, und niemand im Dorf hatte ihn kommen sehen.",
    "fr": "La rivière est montée dans la nuit, et personne au village ne l'avait vue venir.",
    "pl": "Rzeka podniosła się w nocy i nikt we wsi nie widział, jak nadchodziła.",
    "ja": "川は夜の間に増水し、村の誰も気づかなかった。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_text_is_told_by_its_language(code, document, failing):
    assert identified(TEXTS[code])[0] == code
    assert failing(Language(languages=(code,)), document(TEXTS[code])) == []
    others = tuple(other for other in TEXTS if other != code)
    assert "language" in failing(Language(languages=others), document(TEXTS[code]))


def test_what_has_no_language_is_uncertain(document, failing):
    for text in ("", "1 2 3 4 5", "\n\n", "0x7f 0x00", "\ud800"):
        assert "language_score" in failing(Language(), document(text))


def test_an_empty_list_of_languages_asks_for_certainty_alone(document, failing):
    assert failing(Language(languages=()), document(TEXTS["ja"])) == []
    assert [measure.reason for measure in Language(languages=()).measures(document("x"))] == ["language_score"]


def test_only_the_first_characters_are_looked_at(document, failing):
    text = TEXTS["en"] * 10 + TEXTS["pl"] * 400
    assert failing(Language(characters=500), document(text)) == []
    assert "language" in failing(Language(characters=None), document(text))


def test_line_ends_and_nul_do_not_end_the_reading():
    assert identified("\n\0" + TEXTS["de"].replace(" ", "\n"))[0] == "de"


def test_the_model_is_never_downloaded(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    language._model.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    assert identified(TEXTS["fr"])[0] == "fr"


def test_another_model_is_refused(monkeypatch):
    language._model.cache_clear()
    monkeypatch.setattr(language, "MODEL_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"lid\.176\.ftz"):
        identified("text")
    language._model.cache_clear()
