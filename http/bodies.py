"""JSON bodies into structs, or a refusal that names the field and how to mend it."""

import json
import re
import typing
from typing import Annotated, Any, Final, Generic, NoReturn, TypeVar

import msgspec

from transfer_engine.http.problems import ProblemCode, Rejected

Body = TypeVar("Body", bound=msgspec.Struct)

_WRONG_TYPE: Final = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<got>[^`]*)`")
_MISSING: Final = re.compile(r"missing required field `(?P<field>[^`]*)`")
_UNKNOWN: Final = re.compile(r"contains unknown field `(?P<field>.*)`", re.DOTALL)
_PATH: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")

_ARTICLES: Final = {
    "int": "an integer",
    "float": "a number with a fraction or exponent",
    "bool": "true or false",
    "str": "a string",
    "null": "null",
    "array": "an array",
    "object": "an object",
}


class BodyDecoder(Generic[Body]):
    """Decodes one kind of body: compiled once, strict, and never a traceback for what a client can send."""

    def __init__(self, struct: type[Body]) -> None:
        self._decoder = msgspec.json.Decoder(struct)
        self._names = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}
        self._descriptions = _descriptions(struct)

    def decode(self, body: bytes) -> Body:
        """Return the struct that a body holds.

        Raises:
            Rejected: not JSON or nested too deeply (``malformed_body``); a field is missing, unknown, doubled or wrong.
        """
        try:
            decoded = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            _refuse_malformed(body)  # what is not JSON at all is told so, wherever the decoder gave up
            self._refuse(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _refuse_malformed(body)
            raise  # what one decoder calls malformed, the other does too
        if body.count(b":") != len(self._names):  # more colons than fields: perhaps a name stands there twice
            _refuse_duplicates(body)
        return decoded

    def _refuse(self, message: str) -> NoReturn:
        """Turn a validation message into a refusal that names the field and the fix."""
        if missing := _MISSING.search(message):
            field = missing["field"]
            raise Rejected(ProblemCode.MISSING_FIELD, f"{field} is missing: {self._expectation(field)}", field=field)
        if unknown := _UNKNOWN.search(message):
            field = unknown["field"][:64]
            known = ", ".join(self._names)
            raise Rejected(
                ProblemCode.UNKNOWN_FIELD, f"{field!r} is no field of this request: it takes {known}", field=field
            )
        path = _PATH.search(message)
        field = path["path"] if path else ""
        wrong_type = _WRONG_TYPE.search(message)
        if wrong_type is None:  # a struct's own check: its words name the field
            reason = message[: path.start()] if path else message
            raise Rejected(ProblemCode.INVALID_FIELD, f"{field}: {reason}" if field else reason, field=field or None)
        found = _ARTICLES.get(wrong_type["got"], wrong_type["got"])
        if not field:
            fields = ", ".join(self._names)
            raise Rejected(ProblemCode.INVALID_FIELD, f"the body must be a JSON object with {fields}, not {found}")
        raise Rejected(ProblemCode.INVALID_FIELD, f"{self._expectation(field)}, not {found}", field=field)

    def _expectation(self, field: str) -> str:
        description = self._descriptions.get(self._names.get(field, field))
        return f"{field} must be {description}" if description else f"{field} must be of its type"


def _descriptions(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return what the fields' annotations say that they must be."""
    descriptions = {}
    for name, hint in typing.get_type_hints(struct, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            for meta in hint.__metadata__:
                if isinstance(meta, msgspec.Meta) and meta.description:
                    descriptions[name] = meta.description
    return descriptions


def _refuse_malformed(body: bytes) -> None:
    try:
        msgspec.json.decode(body)
    except RecursionError:
        raise Rejected(ProblemCode.MALFORMED_BODY, "the body is nested too deeply: send one flat object") from None
    except UnicodeDecodeError:
        raise Rejected(ProblemCode.MALFORMED_BODY, "the body is not UTF-8: send JSON in UTF-8") from None
    except msgspec.ValidationError:
        return  # well-formed, but beyond what the decoder holds: a number of thousands of digits
    except msgspec.DecodeError as error:
        raise Rejected(ProblemCode.MALFORMED_BODY, f"the body is not JSON: {_reason(str(error))}") from None


def _reason(message: str) -> str:
    return "it is empty or ends too early" if "truncated" in message else message.removeprefix("JSON is malformed: ")


def _refuse_duplicates(body: bytes) -> None:
    def refuse(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise Rejected(
                    ProblemCode.DUPLICATE_FIELD, f"{name[:64]} is given twice: give it once", field=name[:64]
                )
            seen.add(name)

    json.loads(body, object_pairs_hook=refuse)
