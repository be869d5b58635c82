"""JSON bodies into structs, or a refusal that names the field and how to mend it."""

import json
import re
import typing
from collections.abc import Callable
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

    def __init__(self, struct: type[Body], what: str = "the body", *, refuses_duplicates: bool = True) -> None:
        self._what = what
        self._refuses_duplicates = refuses_duplicates
        self._decoder = msgspec.json.Decoder(struct)
        self._fields = _fields(struct)
        self._names = [field for field in self._fields if "." not in field]
        self._members: Callable[[msgspec.Struct], int] = _member_counter(struct)

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
        # More colons than members: perhaps a name stands there twice.
        if self._refuses_duplicates and body.count(b":") != self._members(decoded):
            _refuse_duplicates(body)
        return decoded

    def _refuse(self, message: str) -> NoReturn:
        """Turn a validation message into a refusal that names the field and the fix."""
        path = _PATH.search(message)
        within = path["path"] if path else ""
        what_is_wrong = message[: path.start()] if path else message
        if missing := _MISSING.search(message):
            field = f"{within}.{missing['field']}" if within else missing["field"]
            raise Rejected(ProblemCode.MISSING_FIELD, f"{field} is missing: {self._expectation(field)}", field=field)
        if unknown := _UNKNOWN.search(what_is_wrong):
            field = unknown["field"][:64]
            if within:
                taken = [name.removeprefix(f"{within}.") for name in self._fields if name.startswith(f"{within}.")]
                what = within
            else:
                taken, what = self._names, "this request"
            raise Rejected(
                ProblemCode.UNKNOWN_FIELD,
                f"{field!r} is no field of {what}: it takes {', '.join(taken)}",
                field=f"{within}.{field}" if within else field,
            )
        field = within
        wrong_type = _WRONG_TYPE.search(message)
        if wrong_type is None:  # a struct's own check: its words name the field
            reason = f"{field}: {what_is_wrong}" if field else what_is_wrong
            raise Rejected(ProblemCode.INVALID_FIELD, reason, field=field or None)
        found = _ARTICLES.get(wrong_type["got"], wrong_type["got"])
        if not field:
            fields = ", ".join(self._names)
            raise Rejected(ProblemCode.INVALID_FIELD, f"{self._what} must be a JSON object with {fields}, not {found}")
        raise Rejected(ProblemCode.INVALID_FIELD, f"{self._expectation(field)}, not {found}", field=field)

    def _expectation(self, field: str) -> str:
        description = self._fields.get(field)
        return f"{field} must be {description}" if description else f"{field} must be of its type"


def _fields(struct: type[msgspec.Struct], within: str = "") -> dict[str, str]:
    """Return what each field must be by its annotation, by the path to it; one without a description is empty."""
    fields = {}
    hints = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        path = within + field.encode_name
        hint = hints[field.name]
        fields[path] = _description(hint)
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields |= _fields(kind, f"{path}.")
    return fields


def _description(hint: Any) -> str:
    """Return the description in a hint, or in one of its alternatives; empty where there is none."""
    if typing.get_origin(hint) is Annotated:
        for meta in hint.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return next(filter(None, map(_description, typing.get_args(hint))), "")


def _member_counter(struct: type[msgspec.Struct]) -> Callable[[msgspec.Struct], int]:
    """Return what counts the members that a body had at least, by the struct that it was decoded to."""
    if any(field.default not in {None, msgspec.NODEFAULT} for field in msgspec.structs.fields(struct)):
        return lambda _: 0  # what was left out can't be told from what was given
    names = struct.__struct_fields__

    def count(decoded: msgspec.Struct) -> int:
        members = 0
        for name in names:
            value = getattr(decoded, name)
            if value is not None:
                members += 1
                if isinstance(value, msgspec.Struct):
                    members += count_nested[type(value)](value)
        return members

    kinds = [hint for name, hint in typing.get_type_hints(struct).items() if name in names]
    nested = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}
    count_nested = {kind: _member_counter(kind) for kind in nested}
    flat = len(names)
    return count if nested or not _is_all_required(struct) else lambda _: flat


def _is_all_required(struct: type[msgspec.Struct]) -> bool:
    return all(field.required for field in msgspec.structs.fields(struct))


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
                raise given_twice(name)
            seen.add(name)

    json.loads(body, object_pairs_hook=refuse)


def refuse_outer_duplicates(body: str) -> None:
    """Refuse JSON whose outermost object has a name twice; what is within its lists is looked at elsewhere.

    Raises:
        Rejected: it has (``duplicate_field``), or is nested too deeply (``malformed_body``).
    """
    names: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object is the last one to be whole

    try:
        json.loads(body, object_pairs_hook=note, parse_int=str, parse_float=str)
    except RecursionError:
        raise Rejected(ProblemCode.MALFORMED_BODY, "the body is nested too deeply: send flat objects") from None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise given_twice(name)
        seen.add(name)


def given_twice(name: str) -> Rejected:
    """Return the refusal of a body that has a name twice."""
    return Rejected(ProblemCode.DUPLICATE_FIELD, f"{name[:64]} is given twice: give it once", field=name[:64])
