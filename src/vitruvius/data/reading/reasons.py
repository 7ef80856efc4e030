"""Why a record that was read is no document: the reasons of the readers, and what each means."""

from __future__ import annotations

HARMLESS = {
    "blank_line": "the line holds nothing but white space",
    "empty": "the document holds nothing but white space",
}
"""Dropped and listed like the others, but no sign of damage: they do not count towards the rate of bad data."""

DAMAGE = {
    "binary": "a NUL character: this is not text",
    "corrupt_stream": "the compressed file is damaged or cut short; what follows this place is lost",
    "corrupt_table": "the table is damaged or cut short; the rows named here are lost",
    "decompression_bomb": "the file unpacks to more than the stated multiple of its size; the rest is not read",
    "invalid_json": "the line is not JSON",
    "invalid_utf8": "a byte that is not UTF-8",
    "lone_surrogate": "half of a surrogate pair, which is no character and has no UTF-8",
    "missing_field": "the JSON object has no text field",
    "nan_or_infinity": "NaN or Infinity, which JSON does not have",
    "not_an_object": "the JSON value is not an object",
    "too_long": "the line, file or text is longer than the limit; no such line or file was in memory as a whole",
    "too_much_memory": "reading this part takes more memory than the limit; it was not read",
    "truncated_last_line": "the file ends in the middle of a JSON value",
    "utf16": "the file is UTF-16; convert it to UTF-8",
    "wrong_type": "the text field is not a string",
}
"""Why a record is refused. The share of these among all documents is the rate of bad data."""
