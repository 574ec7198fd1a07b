"""Fields of a configuration that hold an installed component, looked up in the catalogue by its `type`. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticSerializationError, core_schema

from flowmap.plugin import catalogue as installed
from flowmap.plugin.kinds import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.schema.config import explained

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


KIND_MARK = "x-flowmap-kind"
"""What stands in the JSON Schema of a field for any component of a kind (`flowmap.recipe.json_schema`)."""


class FromCatalogue:
    """Marks a field that holds one installed component, named by its `type`.

    Use the ready-made `AnyBackbone`, `AnyData`, `AnyObjective`, `AnySampler`, `AnyMetric` and
    `AnyFeatures`. In a recipe the value is a table with a `type`, or just the name where every field has a default.
    """

    def __init__(self, base: type[ComponentConfig]) -> None:
        self.base = base

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate through the catalogue; serialise as the component's own fields."""
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda component: component.as_tables()),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A mark, for components are not known before plugins are loaded, and may hold others of their kind."""
        return {KIND_MARK: self.base.kind}

    def _validate(self, value: Any) -> ComponentConfig:
        kind = self.base.kind
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            return _made(_installed(kind, value), {"type": value})
        allowed = f"; allowed: {', '.join(installed.catalogue().names(kind))}"
        if not isinstance(value, Mapping):
            raise explained(f"must be a name, or a table with a 'type'{allowed}")
        if not isinstance(value.get("type"), str):
            raise explained(f"the field 'type' must name what it is{allowed}")
        try:
            found = _installed(kind, value["type"])
        except PydanticCustomError as error:
            details = InitErrorDetails(type=error, loc=("type",), input=value["type"])
            raise ValidationError.from_exception_data(kind, [details]) from None
        return _made(found, dict(value))


def _made(config: type[ComponentConfig], fields: dict[str, Any]) -> ComponentConfig:
    """The configuration with `fields`, which is one, and can be written as a run's lock has it."""
    made: object = config.model_validate(fields)
    if not isinstance(made, config):
        found = f"a validator of {config.__name__} returned {made!r}"
        raise explained(f"{installed.whose(config)} is at fault: {found}, and must return the configuration itself")
    try:
        made.as_tables()
    except PydanticSerializationError as error:
        why = f"its fields cannot be written as a recipe: {' '.join(str(error).split())}"
        raise explained(f"{installed.whose(config)} is at fault: {why}") from None
    return made


def _installed(kind: str, name: str) -> type[ComponentConfig]:
    try:
        found = installed.catalogue().find(kind, name)
    except LookupError as error:
        raise explained(str(error.args[0])) from None
    try:
        found.model_rebuild()  # made ready when it is first named (`Config.model_config`); nothing if it is
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        raise explained(f"the fields of {kind} '{name}' cannot be: {type(error).__name__}: {first}") from None
    return found


AnyBackbone = Annotated[BackboneConfig, FromCatalogue(BackboneConfig)]

AnyData = Annotated[DataConfig, FromCatalogue(DataConfig)]

AnyObjective = Annotated[ObjectiveConfig, FromCatalogue(ObjectiveConfig)]

AnySampler = Annotated[SamplerConfig, FromCatalogue(SamplerConfig)]

AnyMetric = Annotated[MetricConfig, FromCatalogue(MetricConfig)]

AnyFeatures = Annotated[FeaturesConfig, FromCatalogue(FeaturesConfig)]
