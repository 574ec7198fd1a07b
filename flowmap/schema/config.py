"""A configuration that refuses what it does not know, and what `flowmap check` says of its fields. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from flowmap.schema.specs import StageFacts
from flowmap.schema.words import unknown_word


class Config(BaseModel):
    """A frozen configuration that refuses fields it does not know and names the nearest one.

    Types are strict: neither "10" nor true is a number. An array is a tuple. A field of a type that TOML does
    not have asks to be converted: `Annotated[Path, Field(strict=False)]`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        # Of all that is installed a recipe names a tenth: the others need not be made ready.
        defer_build=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _arrays_are_tuples(cls, value: Any) -> Any:
        return {key: frozen(v) for key, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        allowed = [info.alias or name for name, info in cls.model_fields.items()]
        unknown = [key for key in value if key not in allowed]
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=explained(unknown_word("field", key, allowed)),
                        loc=(key,),
                        input=value[key],
                    )
                    for key in unknown
                ],
            )
        return value

    def as_tables(self) -> dict[str, Any]:
        """Its fields as a recipe has them, with every default and without what is None; as TOML and JSON know them."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def frozen(value: Any) -> Any:
    """`value` with every list in it, at any depth of lists, as a tuple."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


def guidance_findings(cfg_scale: float, conditional: bool) -> Iterable[Finding]:
    """What is wrong with a `cfg_scale` on data that are, or are not, `conditional`: guidance needs a condition."""
    if cfg_scale != 1 and not conditional:
        yield Finding("error", ("cfg_scale",), "guidance needs a condition, and these data have none; use 1")


def idle_drop_findings(drop_condition: float, facts: StageFacts) -> Iterable[Finding]:
    """A `drop_condition`, the probability that a sample's condition becomes null, that will have no effect."""
    if drop_condition and not facts.conditional:
        yield Finding("warning", ("drop_condition",), "has no effect: these data have no condition")
    elif drop_condition and not facts.ever(drop_condition):
        yield Finding("warning", ("drop_condition",), f"has no effect: {facts.rarely()}")


@dataclass(frozen=True)
class Finding:
    """Something that `flowmap check` has to say about one field.

    `field` is relative to whoever reports it; an `error` refuses the recipe, a `warning` does not.
    """

    level: Literal["error", "warning"]
    field: tuple[str | int, ...]
    message: str


def idle(config: Config, why: str, *fields: str) -> Iterator[Finding]:
    """A warning for each of `fields` of `config` that is not at its default, although `why`: nothing reads it."""
    for name in fields:
        if getattr(config, name) != type(config).model_fields[name].get_default(call_default_factory=True):
            yield Finding("warning", (name,), f"has no effect: {why}")


def explained(text: str) -> PydanticCustomError:
    """An error whose text is shown as it is."""
    return PydanticCustomError("explained", "{text}", {"text": text})
