"""Answers in JSON as a chain: a model that is held to the form, and a parser behind it."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

Method = Literal["function_calling", "json_schema", "json_mode"]


def structured(
    model: BaseChatModel, schema: dict[str, Any] | type, method: Method, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """A chain that answers in JSON of the schema ("json_schema"), or in any JSON object ("json_mode"), and parses it.

    Args:
        include_raw: it answers ``{"raw", "parsed", "parsing_error"}``.
    """
    form: dict[str, Any] = {"type": "json_object"}
    if method == "json_schema":
        plain = convert_to_json_schema(schema)
        form = {"type": "json_schema", "json_schema": {"name": plain.get("title", "answer"), "schema": plain}}
    told = {"kwargs": {"method": method}, "schema": schema}
    held = model.bind(response_format=form, ls_structured_output_format=told)
    parser: Runnable[Any, Any] = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        return held | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=held) | parsed.with_fallbacks([failed], exception_key="parsing_error")
