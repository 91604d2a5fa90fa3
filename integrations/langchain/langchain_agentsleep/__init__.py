"""LangChain and LangGraph agents whose chat model sleeps."""

from __future__ import annotations
