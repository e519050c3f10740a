"""Encodes and decodes MessagePack. A document that does not decode is examined again, to name every wrong field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from protocol.documents import Document, object_types
from protocol.errors import DocumentError, ErrorCode, FieldError
from protocol.rules import RULES, check
from protocol.validation_texts import choices_of, in_words

MAX_BODY = 1 << 20
"""Bytes of a document: a NATS message's default limit."""
MAX_ERRORS = 100
"""The most wrong fields in one acknowledgement; the last entry then says how many more there are."""
MAX_TEXT = 1000
"""The most characters of a path or a message: a wrong value may be as long as a document."""

_encoder = msgspec.msgpack.Encoder()
_T = TypeVar("_T")


def encode(value: Any) -> bytes:
    """Return a protocol type as MessagePack."""
    return _encoder.encode(value)


def decode(body: bytes, into: type[_T]) -> _T:
    """Return a message other than a document, or raise DocumentError with the first mistake."""
    try:
        return msgspec.msgpack.decode(body, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError([_field_error("$", str(error))]) from None


class DocumentCodec:
    """Decodes documents of one type. Its fields are the kinds of object that a document may list."""

    def __init__(self, document: type[Document]) -> None:
        self._decoder = msgspec.msgpack.Decoder(document)
        self._types = object_types(document)
        self.decode_known: Callable[[bytes], Document] = self._decoder.decode
        """Returns the document of a body that `decode` accepted before, without checking its rules again."""

    def decode(self, body: bytes) -> Document:
        """Return the document of a message's body; see `decode_document`."""
        if len(body) > MAX_BODY:
            message = f"{len(body)} bytes; a document has at most {MAX_BODY}: split it"
            raise DocumentError([FieldError("$", ErrorCode.TOO_LARGE, message)])
        try:
            document = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DocumentError(limited(_all_mistakes(body, self._types, str(error)))) from None
        mistakes = check(document)
        if mistakes:
            raise DocumentError(limited(mistakes))
        return document


DOCUMENTS = DocumentCodec(Document)


def decode_document(body: bytes) -> Document:
    """Return the document of a message's body.

    Raises DocumentError with every wrong field: its path, a code and what is wrong with it. Nothing else is raised.
    """
    return DOCUMENTS.decode(body)


def decode_known(body: bytes) -> Document:
    """Return the document of a body that `decode_document` took before, without checking its rules again."""
    return DOCUMENTS.decode_known(body)


def limited(errors: Sequence[FieldError]) -> list[FieldError]:
    """Return as many errors as an acknowledgement holds, and how many more there are: message sizes are limited.

    A list that was limited before stays as it is.
    """
    if len(errors) <= MAX_ERRORS + 1:
        return [_shortened(error) for error in errors]
    more = FieldError("$", ErrorCode.INVALID, f"and {len(errors) - MAX_ERRORS} more wrong fields")
    return [*(_shortened(error) for error in errors[:MAX_ERRORS]), more]


def _shortened(error: FieldError) -> FieldError:
    """Return an error with long names and values shortened."""
    path, message = (text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..." for text in (error.path, error.message))
    return FieldError(path, error.code, message)


def _all_mistakes(body: bytes, types: Mapping[str, type[msgspec.Struct]], first: str) -> list[FieldError]:
    try:
        raw = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        return [FieldError("$", ErrorCode.NOT_MESSAGEPACK, f"the body is not one MessagePack value: {error}")]
    if not isinstance(raw, dict):
        return [FieldError("$", ErrorCode.WRONG_TYPE, f"a document is a map, not {_kind_of(raw)}")]
    errors: list[FieldError] = []
    for kind, objects in raw.items():
        if kind not in types:
            known = ", ".join(types)
            errors.append(FieldError(_word(kind), ErrorCode.UNKNOWN_KIND, f"no such kind of object; known are {known}"))
        elif not isinstance(objects, list):
            errors.append(FieldError(kind, ErrorCode.WRONG_TYPE, f"a list of objects, not {_kind_of(objects)}"))
        else:
            for index, item in enumerate(objects):
                errors += _object_mistakes(item, types[kind], RULES[kind].texts, f"{kind}[{index}]")
    return errors or [_field_error("$", first)]


def _object_mistakes(
    item: Any, struct: type[msgspec.Struct], texts: Mapping[str, Callable[[str], object]], path: str
) -> list[FieldError]:
    if not isinstance(item, dict):
        return [FieldError(path, ErrorCode.WRONG_TYPE, f"an object is a map, not {_kind_of(item)}")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    errors = [
        FieldError(f"{path}.{_word(name)}", ErrorCode.UNKNOWN_FIELD, f"no such field; known are {', '.join(fields)}")
        for name in item
        if name not in fields
    ]
    for name, field in fields.items():
        if name not in item:
            if field.required:
                errors.append(FieldError(f"{path}.{name}", ErrorCode.MISSING_FIELD, "this field is needed"))
            continue
        try:
            value = msgspec.convert(item[name], field.type, builtin_types=(bytes,))
            if name in texts:
                texts[name](value)
        except msgspec.ValidationError as error:
            errors.append(_field_error(f"{path}.{name}", str(error), field.type))
        except ValueError as error:
            errors.append(FieldError(f"{path}.{name}", ErrorCode.INVALID, str(error)))
    return errors


def _field_error(path: str, message: str, kind: Any = None) -> FieldError:
    """Turn msgspec's message, which ends in `- at `$...``, into a path and a code; `kind` is the type at `path`."""
    text, _, where = message.partition(" - at `$")
    where = where.removesuffix("`")
    path += where
    words = in_words(text, path, choices_of(kind, where))
    if "unknown field" in text:
        return FieldError(path, ErrorCode.UNKNOWN_FIELD, words)
    if "missing required" in text:
        return FieldError(path, ErrorCode.MISSING_FIELD, words)
    if text.startswith("Expected") and ", got" in text:
        return FieldError(path, ErrorCode.WRONG_TYPE, words)
    if text.startswith(("Expected", "Invalid")):
        return FieldError(path, ErrorCode.INVALID, words)
    return FieldError(path, ErrorCode.NOT_MESSAGEPACK, text)


def _kind_of(value: Any) -> str:
    names = {
        dict: "a map",
        list: "a list",
        str: "text",
        int: "an integer",
        type(None): "nil",
        bytes: "binary",
    }
    return names.get(type(value), type(value).__name__)


def _word(name: Any) -> str:
    """Return a field's name in a form that is safe in a path, whatever the sender wrote."""
    text = name if isinstance(name, str) else repr(name)
    return text if text.isidentifier() else repr(text)[:64]
